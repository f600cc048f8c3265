"""The supervised loop, through the official SDK, learns what plain PEFT learns on its batches."""

from pathlib import Path
from typing import Any

import pytest
import torch
from dreadnode_api.training.defaults import complete
from dreadnode_runtime.backend.tinker_trainer import tinker_trainer
from dreadnode_runtime.control.events import Stop
from dreadnode_runtime.data.batching import Batching
from dreadnode_runtime.data.load_rendering import load_rendering
from dreadnode_runtime.data.reading import read_conversation
from dreadnode_runtime.jobs.config import SftConfig, read_config
from dreadnode_runtime.jobs.outcome import Outcome
from dreadnode_runtime.sft.loop import Plan, train
from dreadnode_runtime.sft.metric_history import History
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

ROWS = [
    {
        "messages": [
            {"role": "user", "content": f"What comes after {n}?"},
            {"role": "assistant", "content": f"{n + 1}, of course" + "!" * (n % 4)},
            {"role": "user", "content": "Sure?"},
            {"role": "assistant", "content": "Yes."},
        ]
    }
    for n in range(11)
]
CONFIG = read_config(
    SftConfig,
    complete(
        "sft",
        {
            "max_sequence_length": 2048,
            "dataset_ref": {"name": "talk", "version": "1"},
            "batch_size": 2,
            "gradient_accumulation_steps": 2,
            "epochs": 4,
            "learning_rate": 1e-2,
            "learning_rate_schedule": "cosine",
            "warmup_steps": 2,
            "weight_decay": 0.01,
            "lora_rank": 4,
            "seed": 5,
        },
    ),
)


class Silence:
    """A reporter that tells nobody."""

    def report(self, *_: Any, **__: Any) -> None: ...

    def phase(self, *_: Any) -> None: ...


async def test_sft_through_the_sdk_equals_a_plain_peft_loop(
    engine: Any, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TINKER_BASE_URL", engine.url)
    monkeypatch.setenv("TINKER_API_KEY", engine.KEY)
    rendering = load_rendering("Qwen/Qwen3-8B", rehearsal=True, tokenizer=str(tiny_model))
    rows = [
        rendering.examples(read_conversation(row), row=n, max_length=512)[0]
        for n, row in enumerate(ROWS, 1)
    ]
    steps = CONFIG.total_steps(len(rows))
    history = History()
    async with tinker_trainer(
        base_model="Qwen/Qwen3-8B",
        adapter=CONFIG.adapter(),
        optimizer=CONFIG.optimizer(),
        resume=None,
        metadata={},
    ) as trainer:
        start = await trainer.export("start", tmp_path / "start")
        await train(Plan(CONFIG, rows), trainer, Silence(), Stop(), history, Outcome())  # type: ignore[arg-type]
        end = await trainer.export("final", tmp_path / "final")

    losses, weights = plain_peft(tiny_model, start.adapter, steps)

    assert losses[-1] < losses[0] / 2
    assert history.loss == pytest.approx(losses, abs=2e-4)
    trained = PeftModel.from_pretrained(
        AutoModelForCausalLM.from_pretrained(tiny_model), end.adapter
    ).state_dict()
    for name, value in weights.items():
        torch.testing.assert_close(trained[name], value, atol=2e-3, rtol=2e-2)


def plain_peft(base: Path, adapter: Path, steps: int) -> tuple[list[float], dict[str, Any]]:
    """Train ADAPTER with transformers, PEFT and AdamW alone; return losses and weights."""
    tokenizer = AutoTokenizer.from_pretrained(base)
    model = PeftModel.from_pretrained(
        AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32), adapter, is_trainable=True
    )
    trained = [weight for weight in model.parameters() if weight.requires_grad]
    adam = torch.optim.AdamW(trained, lr=1, betas=(0.9, 0.95), eps=1e-8, weight_decay=0.01)
    order = Batching(len(ROWS), per_step=4, seed=CONFIG.seed)
    losses = []
    for step in range(steps):
        total, tokens = torch.zeros(()), 0
        adam.zero_grad()
        for row in order.batch(step):
            nll = answer_nll(model, tokenizer, ROWS[row]["messages"])
            nll.mean().backward()
            total, tokens = total + nll.detach().sum(), tokens + len(nll)
        losses.append(float(total) / tokens)
        for group in adam.param_groups:
            group["lr"] = CONFIG.rate(step + 1, steps)
        adam.step()
    return losses, {n: w.detach() for n, w in model.named_parameters() if w.requires_grad}


def answer_nll(model: Any, tokenizer: Any, messages: list[dict[str, str]]) -> torch.Tensor:
    """Return the loss of every token that the assistant says, end of turn included."""
    tokens, spoken = [], []
    for message in messages:
        head = tokenizer.encode(f"<|im_start|>{message['role']}\n")
        body = tokenizer.encode(f"{message['content']}<|im_end|>")
        tail = tokenizer.encode("\n")
        tokens += head + body + tail
        said = message["role"] == "assistant"
        spoken += [False] * len(head) + [said] * len(body) + [False] * len(tail)
    logits = model(input_ids=torch.tensor([tokens])).logits[0, :-1]
    nll = torch.nn.functional.cross_entropy(logits, torch.tensor(tokens[1:]), reduction="none")
    return nll[torch.tensor(spoken[1:])]
