"""A collection of broken jobs: each is refused in one sentence, before a job exists.

The API is real, and so is the check of the data, which runs in this process.
"""

# ruff: noqa: E501 - a sentence is as wide as it is

import asyncio
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from dreadnode_api.settings import Settings
from dreadnode_api.training.check_request import CheckRequest
from dreadnode_api.training.checker import Checker, CheckResult
from dreadnode_runtime.commands.check import check
from inline_snapshot import snapshot

MODEL = "Qwen/Qwen3-8B"
CHAT = {"messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "ho"}]}
CUT = {
    "messages": [{"role": "user", "content": "hi " * 400}, {"role": "assistant", "content": "ho"}]
}
MARKED = {"prompt": "hi", "answer": "<|im_start|>ho"}
SUM = {"prompt": "1 + 1?", "answer": "#### 2"}


def lines(*rows: Any) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


DATASETS: Mapping[str, bytes] = {
    "talk": lines(CHAT, {"prompt": "who", "answer": "me"}),
    "sums": lines(SUM, {"prompt": "2 + 2?", "answer": "#### 4"}),
    "asks": lines({"prompt": "who?"}, {"prompt": "when?"}),
    "texts": lines({"text": "the pier is open"}),
    "unanswered": lines({"messages": [{"role": "user", "content": "hi"}]}),
    "mixed": lines(CHAT, {"nothing": 1}),
    "unread": lines({**CHAT, "rating": 5}),
    "long": lines(CUT),
    "marked": lines(MARKED),
    "pairs": lines({"prompt": "a", "chosen": "b", "rejected": "c"}),
    "weights": lines({"text": "a b c", "weight": 0.5}),
}


def sft(dataset: str = "talk", *, job: Mapping[str, Any] | None = None, **config: Any) -> Any:
    ref = {"name": dataset, "version": "1.0.0"}
    body = {"model": MODEL, "trainer_type": "sft", "config": {"dataset_ref": ref, **config}}
    return body | dict(job or {})


def rl(dataset: str = "sums", *, reward: Any = None, job: Any = None, **config: Any) -> Any:
    ref = {"name": dataset, "version": "1.0.0"}
    settings = {"algorithm": "importance_sampling", "prompt_dataset_ref": ref, **config}
    if reward is not None:
        settings["reward_recipe"] = {"name": reward[0], "params": reward[1]}
    body = {"model": MODEL, "trainer_type": "rl", "config": {"max_sequence_length": 256} | settings}
    return body | (job or {})


def ref(name: str) -> dict[str, str]:
    return {"name": name, "version": "1.0.0"}


def code(source: str) -> Any:
    return rl(reward=("python_v1", {"source": source}))


BROKEN: dict[str, Any] = {
    # The model.
    "an unknown model": sft(job={"model": "Qwen/Qwen3-8"}),
    "a model from another host": sft(job={"model": "gpt-4o"}),
    "a retired model": sft(job={"model": "meta-llama/Llama-3.2-1B"}),
    "a model without weights here": sft(job={"model": "Qwen/Qwen3.5-4B"}),
    "two models": sft(job={"base_model": "Qwen/Qwen3-8B-Base"}),
    "a backend that is not offered": rl(job={"backend": "ray"}),
    "a rank above the model's": sft(lora_rank=512),
    "a context above the model's": sft(max_sequence_length=100_000),
    # The config.
    "a misspelled setting": sft(epoch=3),
    "a relative path of a tokenizer": sft(tokenizer="qwen3"),
    "a folder without a tokenizer": sft(tokenizer="/nowhere"),
    "a tokenizer for a rehearsal": sft(tokenizer="/nowhere", job={"rehearse": True}),
    "no steps": sft(steps=0),
    "a fraction of a step": sft(steps=1.5),
    "a number as text": sft(batch_size="16"),
    "a negative learning rate": sft(learning_rate=-1e-4),
    "a learning rate above 1": sft(learning_rate=2.0),
    "a count beyond 2^53": sft(steps=2**60),
    "a warm-up without an end": sft(steps=5, warmup_steps=5),
    "an alpha": sft(lora_alpha=32),
    "an interval without evaluation data": sft(eval_interval=5),
    "patience without evaluations": sft(early_stopping_patience=2),
    "packed conversations": sft(packed=True),
    "a group of one": rl(group_size=1),
    "a temperature of 0": rl(temperature=0),
    "an update larger than a step": rl(num_rollouts=4, batch_size=8),
    "completions without room for a prompt": rl(max_new_tokens=256),
    "clipping without PPO": rl(clip_high_threshold=1.2),
    "staleness in synchronous training": rl(max_steps_off_policy=2),
    # The data.
    "a dataset that does not exist": sft("nothing"),
    "a version that does not exist": sft(dataset_ref={"name": "talk", "version": "2.0.0"}),
    "a split that does not exist": sft(split="holdout"),
    "no data": sft(dataset_ref=None),
    "prompts without answers": sft("asks"),
    "a chat that nobody answers": sft("unanswered"),
    "text as conversations": sft("texts"),
    "conversations as text": sft(format="text"),
    "a row that cannot be used, and strict": sft("mixed", strict=True),
    "a field that is not read, and strict": sft("unread", strict=True),
    "answers beyond the context": sft("long", max_sequence_length=64),
    "rows that hold control tokens": sft("marked"),
    "evaluation data that cannot be used": sft(eval_dataset_ref=ref("unanswered")),
    "trajectories that cannot be used": sft(trajectory_dataset_refs=[ref("texts")]),
    "packed rows with weights": sft("weights", format="text", packed=True),
    "prompts longer than the context": rl(
        "long", max_sequence_length=200, reward=("contains_v1", {"needle": "a"})
    ),
    # The reward.
    "an unknown reward": rl(reward=("exact", {})),
    "a reward without its parameter": rl(reward=("contains_v1", {})),
    "a reward with a misspelled parameter": rl(reward=("contains_v1", {"needel": "a"})),
    "a reward with a parameter of another type": rl(reward=("contains_v1", {"needle": 3})),
    "a reward that needs answers": rl("asks", reward=("exact_match_v1", {})),
    "a reward that needs numbers": rl("talk", reward=("gsm8k_v1", {})),
    "code that is not Python": code("def reward(:"),
    "code without the function": code("def score(prompt, completion): return 1"),
    "code that raises": code("def reward(*_, **__): raise ValueError('no')"),
    "code that returns text": code("def reward(*_, **__): return 'good'"),
    # The budget.
    "a budget of 0": sft(max_cost_usd=0),
    "a negative budget": sft(max_cost_usd=-1.0),
    "a budget below the price": sft(max_cost_usd=1e-9),
}


@pytest.fixture
def settings(database_url: str, tmp_path: Path) -> Settings:
    """Settings of a server that trains on an engine which charges."""
    return Settings(
        data_dir=tmp_path / "data",
        database_url=database_url,
        tinker_api_key="tml-1",
        allow_custom_code=True,
        preflight_wait_seconds=600,
        rate_limit=0,
    )


class CheckerHere(Checker):
    """Runs the runtime's check in this process, since starting another one takes seconds."""

    async def run(self, request: CheckRequest) -> CheckResult:
        answer = await asyncio.to_thread(check, dict(request.payload))
        if answer["ok"]:
            return CheckResult(answer)
        return CheckResult(None, answer["error"], answer["loc"])


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
async def test_every_broken_job_is_refused_before_it_exists(
    api: Any, engine: Any, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DREADNODE_ALLOW_CUSTOM_CODE", "1")
    api.app.state.preflight._checker = CheckerHere(api.settings)
    engine.models[0] |= {"tokenizer_id": str(tiny_model), "max_lora_rank": 128}
    for name, content in DATASETS.items():
        await api.push(name, body=content)

    refused = {name: await _sentence(api, body) for name, body in BROKEN.items()}

    assert len(BROKEN) >= 40
    assert "accepted" not in refused.values()
    assert await api.count() == 0
    assert refused == snapshot(
        {
            "an unknown model": """\
Unknown training base model 'Qwen/Qwen3-8'.
Did you mean one of: Qwen/Qwen3-8B, Qwen/Qwen3-8B-Base?\
""",
            "a model from another host": """\
Unknown training base model 'gpt-4o'.
See `dn train catalog`.\
""",
            "a retired model": "This server's engine has no weights for `meta-llama/Llama-3.2-1B`, which hosted Tinker retired on 2026-06-12 in favour of `Qwen/Qwen3.5-9B-Base`; add `--rehearse` to try the job on a small stand-in",
            "a model without weights here": "This server's engine has no weights for `Qwen/Qwen3.5-4B`; add `--rehearse` to try the job on a small stand-in",
            "two models": "`body`: `model` and `base_model` are one field; give one, or both alike",
            "a backend that is not offered": "The backend `ray` is not offered here; use `tinker`, with the algorithm `importance_sampling` or `ppo` in place of `grpo`",
            "a rank above the model's": "`lora_rank` is 512, and `Qwen/Qwen3-8B` takes at most 128",
            "a context above the model's": "`max_sequence_length` is 100000, and `Qwen/Qwen3-8B` takes at most 32768 tokens",
            "a misspelled setting": "`config.epoch`: unknown field; remove it or correct its name",
            "a relative path of a tokenizer": "`config.tokenizer`: must be the absolute path of a folder on the server's machine",
            "a folder without a tokenizer": "`tokenizer` is /nowhere, where this server finds no tokenizer that it can load; give the path of a folder on the server's machine with tokenizer.json and tokenizer_config.json",
            "a tokenizer for a rehearsal": "`tokenizer` names that of the model, and a rehearsal trains a stand-in with a tokenizer of its own; leave it out",
            "no steps": "`config.steps`: input should be greater than or equal to 1",
            "a fraction of a step": "`config.steps`: input should be a valid integer",
            "a number as text": "`config.batch_size`: input should be a valid integer",
            "a negative learning rate": "`config.learning_rate`: input should be greater than 0",
            "a learning rate above 1": "`config.learning_rate`: input should be less than or equal to 1",
            "a count beyond 2^53": "`body`: whole numbers must lie within 2**53 of zero",
            "a warm-up without an end": "`warmup_steps` is 5, and the job has only 5 steps, so that it never trains at the full learning rate; set fewer warm-up steps",
            "an alpha": "`config`: leave `lora_alpha` out: Tinker fixes it, so that a value would have no effect",
            "an interval without evaluation data": "`config`: `eval_interval` has no effect without `eval_dataset_ref`; give both",
            "patience without evaluations": "`config`: `early_stopping_patience` has no effect without `eval_interval`; give both",
            "packed conversations": "`config`: `packed` needs the `format` `text` or `rendered`",
            "a group of one": "`config.group_size`: input should be greater than or equal to 2",
            "a temperature of 0": "`config.temperature`: must be above 0: completions sampled at 0 are all alike, so that a group has nothing to compare",
            "an update larger than a step": "`config`: `batch_size` is 8, and a step has only 4 prompts (`num_rollouts`) to take them from",
            "completions without room for a prompt": "`max_new_tokens` is 256, which leaves no room for a prompt in the 256 tokens of `max_sequence_length`",
            "clipping without PPO": "`config`: `clip_high_threshold` has an effect with the algorithm `ppo` only",
            "staleness in synchronous training": "`config`: leave `max_steps_off_policy` out: it has no effect in `sync` mode",
            "a dataset that does not exist": "This organization has no dataset `nothing`; see `dn dataset list`",
            "a version that does not exist": "The dataset `talk` does not have the version `2.0.0`; its newest are `1.0.0`",
            "a split that does not exist": "`talk@1.0.0` does not have the split `holdout`; it has `train`",
            "no data": "`config`: name the training dataset in `dataset_ref`, or datasets of trajectories in `trajectory_dataset_refs`",
            "prompts without answers": "None of the 2 rows can be trained on; 2 of them: no answer (rows 1, 2)",
            "a chat that nobody answers": "None of the 1 rows can be trained on; 1 of them: no assistant message to train on (row 1)",
            "text as conversations": "None of the 1 rows can be trained on; 1 of them: no conversation: the row has `text` only; use `format: text` to train on plain text (row 1)",
            "conversations as text": "None of the 2 rows can be trained on; 1 of them: no `text`; the row has `messages` (row 1)",
            "a row that cannot be used, and strict": "`strict` forbids leaving rows out, and 1 of 2 cannot be used: no messages, and no prompt with an answer; its fields are `nothing` (row 2)",
            "a field that is not read, and strict": "`strict` forbids fields that are not read: rating, in 1 of 1 rows; remove them from the rows, or leave `strict` out",
            "answers beyond the context": "None of the 1 rows can be trained on; 1 of them: its answer lies beyond max_sequence_length (row 1)",
            "rows that hold control tokens": "None of the 1 rows can be trained on; 1 of them: it already holds `<|im_start|>`, which qwen3 writes itself (row 1)",
            "evaluation data that cannot be used": "None of the 1 rows can be trained on; 1 of them: no assistant message to train on (row 1)",
            "trajectories that cannot be used": "trajectory dataset 1: None of the 1 rows can be trained on; 1 of them: no conversation: the row has `text` only; use `format: text` to train on plain text (row 1)",
            "packed rows with weights": "None of the 1 rows can be trained on; 1 of them: it has a `weight`, and packed rows share their sequences (row 1)",
            "prompts longer than the context": "None of the 1 rows gives a prompt to train on; 1 of them: the prompt and 100 new tokens do not fit into 200 tokens (row 1)",
            "an unknown reward": "The reward cannot be used: unknown reward recipe `exact`; the recipes are row_reward_v1, contains_v1, exact_match_v1, trajectory_imitation_v1, gsm8k_v1, math_v1, weighted_sum_v1, gate_v1, length_shaped_v1, python_v1",
            "a reward without its parameter": "The reward cannot be used: `contains_v1` needs `needle` in its `params`",
            "a reward with a misspelled parameter": "The reward cannot be used: `contains_v1` needs `needle` in its `params`",
            "a reward with a parameter of another type": "The reward cannot be used: the parameter `needle` of `contains_v1` is invalid: Input should be a valid string",
            "a reward that needs answers": "None of the 2 rows gives a prompt to train on; 2 of them: no expected answer (rows 1, 2)",
            "a reward that needs numbers": "None of the 2 rows gives a prompt to train on; 2 of them: its expected answer is not a single number (rows 1, 2)",
            "code that is not Python": "The reward function cannot be loaded: SyntaxError: invalid syntax (reward.py, line 1) (line 1 of reward.py)",
            "code without the function": "The reward function cannot be loaded: NameError: it defines no function `reward`",
            "code that raises": "The reward function failed on a completion for row 1, `#### 2`: ValueError: no (line 1 of reward.py)",
            "code that returns text": "The reward function failed on a completion for row 1, `#### 2`: TypeError: it returned str, not a number",
            "a budget of 0": "`config.max_cost_usd`: input should be greater than 0",
            "a negative budget": "`config.max_cost_usd`: input should be greater than 0",
            "a budget below the price": "This job costs at least $0.000026, which is more than its `max_cost_usd` of $0.000000001; raise the limit, or make the job smaller",
        }
    )


async def _sentence(api: Any, body: Any) -> str:
    answer = await api("POST", api.jobs, json=body)
    if answer.status_code == 201:
        return "accepted"
    detail: str = answer.json()["detail"]
    assert not set("[]") & set(detail)
    return detail
