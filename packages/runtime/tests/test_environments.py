"""Tools over several turns: what the model is shown, what it learns from, and what goes wrong."""

from collections.abc import Awaitable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from dreadnode_runtime.backend.policy import Sampled, SamplingParams
from dreadnode_runtime.data.load_rendering import load_rendering
from dreadnode_runtime.data.normal_form import Conversation
from dreadnode_runtime.data.prompts import Prompt
from dreadnode_runtime.data.rendering import Rendering
from dreadnode_runtime.errors import JobFailed
from dreadnode_runtime.rewards.recipes import Completion, Recipe, Score
from dreadnode_runtime.rl.environments import Environment, open_environment
from dreadnode_runtime.rl.rollouts import Group, Rollouts
from dreadnode_runtime.user_code.processes import ALLOWED
from transformers import AutoTokenizer

TOOLS = """
def tools():
    return [{"name": "add", "description": "Adds.", "parameters": {"type": "object"}}]

def start(row):
    return {"sum": row["start"]}

def call(state, name, arguments):
    if arguments["n"] < 0:
        raise ValueError("too small")
    state["sum"] += arguments["n"]
    return state, {"sum": state["sum"]}
"""
CALL = '<tool_call>\n{"name": "add", "arguments": {"n": 2}}\n</tool_call><|im_end|>'


class Sum(Recipe):
    """Pays what the environment's state says."""

    name = "sum"

    async def score(self, completion: Completion) -> Score:
        return Score(completion.state["sum"])


class Script:
    """Says what a script says, turn by turn, and remembers what it was shown."""

    def __init__(self, tokenizer: Any, *lines: str) -> None:
        self.tokenizer = tokenizer
        self.lines = list(lines)
        self.shown: list[str] = []
        self.prompts: list[list[int]] = []

    def sample(
        self, prompt: Sequence[int], count: int, sampling: SamplingParams, seed: int
    ) -> Awaitable[list[Sampled]]:
        self.prompts.append(list(prompt))
        self.shown.append(self.tokenizer.decode(prompt))
        tokens = np.array(self.tokenizer.encode(self.lines.pop(0)), np.int32)

        async def answer() -> list[Sampled]:
            logprobs = np.full(len(tokens), -1.0, np.float32)
            return [Sampled(tokens, logprobs, truncated=False) for _ in range(count)]

        return answer()


@pytest.fixture(params=[True, False], ids=["stand-in", "qwen3"])
def rendering(request: pytest.FixtureRequest, tiny_model: Path) -> Rendering:
    """The stand-in's own format, and the model's."""
    return load_rendering("Qwen/Qwen3-8B", rehearsal=request.param, tokenizer=str(tiny_model))


@pytest.fixture
async def environment(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv(ALLOWED, "1")
    opened = await open_environment({"name": "python_v1", "params": {"source": TOOLS}})
    yield opened
    assert opened is not None
    await opened.close()


@pytest.fixture
def roll_out(rendering: Rendering, environment: Environment, tiny_model: Path) -> Any:
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)

    async def roll_out(*lines: str, **limits: Any) -> tuple[Group, Script]:
        said = environment.with_tools(Conversation([{"role": "user", "content": "2+2?"}]))
        tokens = rendering.prompt(said)
        prompt = Prompt(said, 4, data={"start": 2}, tokens=tokens)
        script = Script(tokenizer, *lines)
        limits = {"max_length": 10_000, "max_turns": 8, **limits}
        rollouts = Rollouts(
            rendering, Sum(), SamplingParams(16, 1.0, [258]), environment=environment, **limits
        )
        return await rollouts.group(prompt, script, 1, "0"), script

    return roll_out


async def test_a_tool_result_is_shown_and_the_model_continues_until_it_calls_no_tool(
    roll_out: Any,
) -> None:
    group, script = await roll_out(CALL, CALL, "It is 6.<|im_end|>")

    (rollout,) = group.rollouts
    assert "add" in script.shown[0]
    assert script.shown[1].startswith(script.shown[0])
    assert '{"sum": 4}' in script.shown[1]
    assert '{"sum": 6}' in script.shown[2]
    assert (rollout.turns, rollout.score.value, rollout.truncated) == (3, 6.0, False)


async def test_each_sampled_token_is_trained_exactly_once(
    roll_out: Any, rendering: Rendering
) -> None:
    group, _ = await roll_out(CALL, "It is 4.<|im_end|>")

    (rollout,) = group.rollouts
    pairs = [
        (token, logprob, mine)
        for sequence in rollout.sequences
        for token, logprob, mine in zip(
            sequence.tokens, sequence.logprobs, sequence.sampled_mask, strict=True
        )
    ]
    drawn = [token for token, _, mine in pairs if mine]
    assert rendering.decode(drawn) == CALL + "It is 4.<|im_end|>"
    assert rollout.sampled_tokens == len(drawn)
    assert {logprob for _, logprob, mine in pairs if mine} == {-1.0}
    assert {logprob for _, logprob, mine in pairs if not mine} == {0.0}


async def test_a_format_that_keeps_history_unchanged_gives_one_sequence(
    roll_out: Any, rendering: Rendering
) -> None:
    group, script = await roll_out(CALL, "It is 4.<|im_end|>")

    said = script.prompts[0] + script.tokenizer.encode(CALL)
    goes_on = script.prompts[1][: len(said)] == said
    assert len(group.rollouts[0].sequences) == (1 if goes_on else 2)


async def test_the_number_of_turns_and_the_length_are_limited(roll_out: Any) -> None:
    few, _ = await roll_out(CALL, CALL, max_turns=2)
    short, script = await roll_out(CALL, CALL, max_length=len("x"))

    assert (few.rollouts[0].turns, few.rollouts[0].truncated) == (2, False)
    assert (short.rollouts[0].turns, short.rollouts[0].truncated) == (1, True)
    assert len(script.shown) == 1


@pytest.mark.parametrize(
    ("call", "shown"),
    [
        (CALL.replace('"add"', '"sub"'), "Unknown tool `sub`"),
        (CALL.replace('{"name"', '{"name'), "Invalid tool call"),
    ],
)
async def test_an_invalid_tool_call_gets_an_error_and_the_model_may_try_again(
    roll_out: Any, call: str, shown: str
) -> None:
    group, script = await roll_out(call, "Sorry.<|im_end|>")

    assert shown in script.shown[1]
    assert group.rollouts[0].turns == 2


async def test_a_tool_that_raises_fails_the_job_with_the_rows_number(roll_out: Any) -> None:
    with pytest.raises(JobFailed) as failed:
        await roll_out(CALL.replace("2", "-2"))

    assert str(failed.value) == (
        "The environment's `call` failed on row 4: ValueError: too small "
        "(line 10 of environment.py)"
    )


async def test_an_environment_needs_the_administrators_permission(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv(ALLOWED, raising=False)

    with pytest.raises(JobFailed, match="this server does not run custom code"):
        await open_environment({"name": "python_v1", "params": {"source": TOOLS}})
