"""ATIF trajectories: `steps` of system, user and agent, with calls and observations."""

from collections.abc import Mapping
from typing import Any

from dreadnode_runtime.data.dialects.openai import read_message
from dreadnode_runtime.data.dialects.parts import read_content
from dreadnode_runtime.data.dialects.tool_calls import read_call
from dreadnode_runtime.data.fields import Fields, Findings
from dreadnode_runtime.data.normal_form import Unusable, shown
from dreadnode_runtime.data.turns import Turn

SOURCES = ("system", "user", "agent", "tool", "assistant")


def read_steps(raw: list[Any], found: Findings) -> list[Turn]:
    """Return the turns of the steps RAW.

    Raises:
        Unusable: One cannot be read.
    """
    return [turn for step in raw for turn in _step(step, found)]


def _step(raw: Any, found: Findings) -> list[Turn]:
    if not isinstance(raw, Mapping):
        raise Unusable(f"a step is {shown(raw)}, which is not an object")
    fields = Fields(raw, found, "steps.")
    fields.take("step_id")
    calls = fields.take("tool_calls") or []
    if not isinstance(calls, list):
        raise Unusable(f"a step's `tool_calls` are {shown(calls)}, which is not a list")
    observation = fields.take("observation")
    copied = fields.take("is_copied_context")
    message: dict[str, Any] = {"role": fields.take("source"), "content": fields.take("message")}
    if message["content"] is None:
        message["content"] = ""
    for name in ("reasoning_content", "weight", "train", "trainable", "training", "loss"):
        if name in fields:
            message[name] = fields.take(name)
    turn = read_message(message, found, "steps")[0]
    if calls and turn.role != "assistant":
        raise Unusable("tool calls outside an agent's step")
    turn.calls += [read_call(call, found, "steps") for call in calls]
    if copied is True and turn.role == "assistant":
        # A message of an earlier trajectory, which is trained there.
        turn.mark = False
    fields.close()
    return [turn, *_observation(observation, found)]


def _observation(raw: Any, found: Findings) -> list[Turn]:
    """Return a tool message for each result of an observation."""
    if raw is None:
        return []
    if not isinstance(raw, Mapping):
        raise Unusable(f"a step's `observation` is {shown(raw)}, which is not an object")
    fields = Fields(raw, found, "steps.observation.")
    results = fields.take("results") or []
    fields.close()
    if not isinstance(results, list):
        raise Unusable(f"an observation's `results` are {shown(results)}, which is not a list")
    turns = []
    for result in results:
        if not isinstance(result, Mapping):
            raise Unusable(f"a result of an observation is {shown(result)}, which is not an object")
        inner = Fields(result, found, "steps.observation.results.")
        call_id = inner.take("source_call_id")
        path = "steps.observation.results.content."
        parts, _, _ = read_content(inner.take("content"), found, path)
        inner.close()
        turns.append(Turn("tool", parts, call_id=call_id if isinstance(call_id, str) else None))
    return turns
