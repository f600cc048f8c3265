"""An example of each command, which its help page shows; a test parses every one of them."""

from __future__ import annotations

from itertools import takewhile

EXAMPLES = {
    "": "dn train sft --model Qwen/Qwen3-8B --dataset rows.jsonl --rehearse --wait",
    "train": "dn train watch last",
    "train catalog": "dn train catalog --family qwen --algorithm ppo --sort train",
    "train check": "dn train check sft --model Qwen/Qwen3-8B --dataset rows.jsonl",
    "train check sft": "dn train check sft --model Qwen/Qwen3-8B --dataset support@1.0.0 --show 3",
    "train check rl": "dn train check rl --model Qwen/Qwen3-8B --prompt-dataset questions@1.0.0 "
    "--reward-recipe gsm8k_v1",
    "train check file": "dn train check file job.toml --set config.steps=50",
    "train estimate": "dn train estimate sft --model Qwen/Qwen3-8B --dataset rows.jsonl",
    "train estimate sft": "dn train estimate sft --model Qwen/Qwen3-8B --dataset support@1.0.0 "
    "--compare",
    "train estimate rl": "dn train estimate rl --model Qwen/Qwen3-8B "
    "--prompt-dataset questions@1.0.0 --reward-recipe gsm8k_v1",
    "train estimate file": "dn train estimate file job.toml",
    "train sft": "dn train sft --model Qwen/Qwen3-8B --dataset rows.jsonl --epochs 2 --wait",
    "train rl": "dn train rl --model Qwen/Qwen3-8B --prompt-dataset questions.jsonl "
    "--reward-recipe gsm8k_v1 --steps 50",
    "train init": "dn train init sft job.toml",
    "train submit": "dn train submit job.toml --set config.learning_rate=1e-4",
    "train clone": "dn train clone last --set config.epochs=3",
    "train cancel": "dn train cancel last",
    "train retry": "dn train retry 01900001",
    "train list": "dn train list --status running --kind rl",
    "train get": "dn train get last --json",
    "train wait": "dn train wait last --timeout 1h",
    "train watch": "dn train watch last",
    "train plot": "dn train plot first-run second-run --smooth 20 --out runs.svg",
    "train logs": "dn train logs last --level warning --follow",
    "train eval": "dn train eval last --dataset support@1.0.0 --reward exact_match_v1",
    "train export": "dn train export last --to merged --format merged",
    "train push-hub": "dn train push-hub last grace/support --private",
    "train result": "dn train result last",
    "train rollouts": "dn train rollouts last --step 10 --sort reward",
    "train cost": "dn train cost --by model --month 2026-11",
    "train artifacts": "dn train artifacts last",
    "train checkpoints": "dn train checkpoints last",
    "train download": "dn train download last --best",
    "train chat": "dn train chat last --message 'Where do I find my invoice?'",
    "train delete": "dn train delete 01900001 --checkpoint step-000010",
    "dataset": "dn dataset push rows.jsonl",
    "dataset push": "dn dataset push rows.jsonl support@1.0.0",
    "dataset list": "dn dataset list",
    "dataset get": "dn dataset get support@1.0.0",
    "dataset read": "dn dataset read support@1.0.0 --split train",
    "dataset delete": "dn dataset delete support@1.0.0",
    "capability": "dn capability push prompt.md support@1.0.0",
    "capability push": "dn capability push prompt.md support@1.0.0",
    "capability list": "dn capability list",
    "capability get": "dn capability get support@1.0.0",
    "capability download": "dn capability download support@1.0.0",
    "capability delete": "dn capability delete support@1.0.0",
    "webhook": "dn webhook create https://example.com/hook",
    "webhook create": "dn webhook create https://example.com/hook",
    "webhook list": "dn webhook list",
    "webhook delete": "dn webhook delete 01900001",
    "webhook deliveries": "dn webhook deliveries 01900001",
    "serve": "dn serve --data-dir ./data --port 8799",
    "server": "dn server disk",
    "server disk": "dn server disk --data-dir ./data",
    "server backup": "dn server backup ./backup --data-dir ./data",
    "token": "dn token create nightly --role member --days 30",
    "token create": "dn token create nightly --role member --days 30",
    "token list": "dn token list",
    "token revoke": "dn token revoke 01900001",
    "member": "dn member add grace --email grace@example.com --role member",
    "member add": "dn member add grace --email grace@example.com --role member",
    "member list": "dn member list",
    "member role": "dn member role grace admin",
    "member remove": "dn member remove grace",
    "workspace": "dn workspace budget 250",
    "workspace create": "dn workspace create research",
    "workspace budget": "dn workspace budget 250",
    "workspace list": "dn workspace list",
    "profile": "dn profile use work",
    "profile list": "dn profile list",
    "profile use": "dn profile use work",
    "login": "dn login --server https://training.example.com",
    "logout": "dn logout work",
    "whoami": "dn whoami",
    "completion": "dn completion bash",
}
"""The example of each command, by the words that lead to it."""


def example_of(usage: str) -> str | None:
    """Return the example of the command whose line of USAGE this is."""
    words = usage.removeprefix("Usage: ").split()[1:]
    # Arguments are in capitals, and flags start with a dash or a bracket.
    return EXAMPLES.get(" ".join(takewhile(lambda word: word[0].islower(), words)))
