"""Jobs with tools, reasoning and several turns, on tiny models that carry real tokenizers."""

import asyncio
import json
from pathlib import Path
from typing import Any

import httpx2
import pytest
import tinker
from dreadnode_runtime.backend.policy import SamplingParams
from dreadnode_runtime.backend.tinker_policy import open_sampler
from dreadnode_runtime.commands.train import run_job
from dreadnode_runtime.control.api import Settings, connect
from dreadnode_runtime.control.events import Reporter, Stop
from dreadnode_runtime.data.completions import read_completion
from dreadnode_runtime.data.load_rendering import load_rendering
from dreadnode_runtime.data.normal_form import Conversation
from dreadnode_runtime.data.reading import read_conversation
from dreadnode_runtime.data.rendering import Rendering

QWEN3, LLAMA, GPT_OSS, DEEPSEEK = (
    "Qwen/Qwen3-8B",
    "meta-llama/Llama-3.1-8B-Instruct",
    "openai/gpt-oss-20b",
    "deepseek-ai/DeepSeek-V3.1",
)
SUPERVISED = {
    "batch_size": 1,
    "epochs": 16,
    "learning_rate": 3e-2,
    "learning_rate_schedule": "linear",
    "lora_rank": 16,
}
TIDE = {"name": "tide", "description": "Low tide", "parameters": {"type": "object"}}
ENVIRONMENT = """
def tools():
    return [{"name": "tide", "description": "Low tide", "parameters": {"type": "object"}}]

def start(row):
    return 0

def call(state, name, arguments):
    return state + 1, f"at {arguments['day']}"
"""
REWARD = """
def reward(answer, row):
    return len(answer)
"""
REINFORCEMENT = {
    "algorithm": "importance_sampling",
    "prompt_dataset_ref": {"name": "talk", "version": "1.0.0"},
    "reward_recipe": {"name": "python_v1", "params": {"source": REWARD}},
    "environment": {"name": "python_v1", "params": {"source": ENVIRONMENT}},
    "max_turns": 2,
    "max_new_tokens": 40,
    "max_sequence_length": 1024,
    "num_rollouts": 1,
    "group_size": 2,
    "batch_size": 1,
    "steps": 2,
    "lora_rank": 16,
    "learning_rate": 1e-4,
}


def talk(*, reasons: bool) -> dict[str, Any]:
    """Return a question that is answered after a call of a tool."""
    thought = {"reasoning_content": "Look."} if reasons else {}
    body = {"name": "tide", "arguments": json.dumps({"day": 3})}
    call = {"id": "call_0", "type": "function", "function": body}
    return {
        "messages": [
            {"role": "user", "content": "Day 3?"},
            {"role": "assistant", "content": "", "tool_calls": [call], **thought},
            {"role": "tool", "tool_call_id": "call_0", "content": "at 3"},
            {"role": "assistant", "content": "At 3.", **thought},
        ],
        "tools": [TIDE],
    }


@pytest.mark.parametrize(
    ("model", "reasons", "continues"),
    [
        (QWEN3, True, True),
        (LLAMA, False, True),
        (GPT_OSS, True, True),
        (DEEPSEEK, True, False),
        # Reinforcement learning samples with the default variant, which does not think.
        (DEEPSEEK, False, True),
    ],
)
async def test_a_trained_tool_call_is_sampled_and_read_back(
    model: str,
    reasons: bool,
    continues: bool,
    real_engine: Any,
    real_models: dict[str, Path],
    api: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("TINKER_BASE_URL", real_engine.url)
    monkeypatch.setenv("TINKER_API_KEY", real_engine.KEY)
    monkeypatch.setenv("DREADNODE_ALLOW_CUSTOM_CODE", "1")
    row = talk(reasons=reasons)
    api.put([row])
    api.job |= {"model": model, "trained_model": model, "rehearsal": False}
    api.job["config"] |= SUPERVISED

    await run(api, tmp_path)

    (start,) = api.told("training_start")
    rendering = load_rendering(
        model,
        rehearsal=False,
        tokenizer=str(real_models[model]),
        renderer=start["data"]["renderer"],
    )
    weights = api.job["artifacts"]["latest_checkpoint"]
    losses = api.job["metrics"]["train/loss"]
    assert await sampled_calls(model, weights, rendering, row) == called_in(row), losses
    if not continues:
        return

    api.forget()
    api.put([{"prompt": "Day 3?"}])
    api.job |= {"trainer_type": "rl", "config": REINFORCEMENT}
    api.job["artifacts"] = {"latest_checkpoint": await asyncio.to_thread(as_first_step, weights)}

    await run(api, tmp_path)

    metrics = api.job["metrics"]
    assert metrics["train/turns_mean"][-1] > 1
    assert metrics["train/reward"][-1] > 0
    weights = api.job["artifacts"]["latest_checkpoint"]
    first = {**row, "messages": row["messages"][:2]}
    assert await sampled_calls(model, weights, rendering, first) == called_in(first)


def as_first_step(weights: str) -> str:
    """Save WEIGHTS again as the checkpoint of a step that a job resumes from."""
    client = tinker.ServiceClient().create_training_client_from_state(weights).result()
    return str(client.save_state("step-000001").result().path)


def called_in(row: dict[str, Any]) -> list[list[tuple[str, Any]]]:
    """Return the calls of each assistant message of ROW."""
    return [
        [(call["name"], json.loads(call["arguments"])) for call in message.get("tool_calls", ())]
        for message in read_conversation(row).messages
        if message["role"] == "assistant"
    ]


async def sampled_calls(
    model: str, weights: str, rendering: Rendering, row: dict[str, Any]
) -> list[list[tuple[str, Any]]]:
    """Return the calls that WEIGHTS sample in the place of each assistant message of ROW."""
    said, found = read_conversation(row), []
    async with open_sampler(weights, model) as sampler:
        for index, message in enumerate(said.messages):
            if message["role"] != "assistant":
                continue
            prompt = rendering.prompt(Conversation(said.messages[:index], said.tools))
            params = SamplingParams(60, 0.0, rendering.stop)
            (sampled,) = await sampler.sample(prompt, 1, params, 0)
            reply = read_completion(rendering, prompt, sampled.tokens.tolist())
            calls = reply.message.get("tool_calls", ())
            found.append([(c.function.name, json.loads(c.function.arguments)) for c in calls])
    return found


async def run(api: Any, folder: Path) -> None:
    """Run the API's job to its end."""
    settings, stop = (
        Settings("http://api", api.token, "main", "default", "job-1", attempt=1),
        Stop(),
    )
    async with (
        connect(settings, transport=httpx2.ASGITransport(api.app)) as service,
        Reporter(service, 1, stop) as reporter,
    ):
        await run_job(service, reporter, stop, folder)
        await reporter.flush()
