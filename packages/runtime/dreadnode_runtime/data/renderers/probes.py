"""Short conversations that show what a chat format can write, and how two formats differ."""

import json
from dataclasses import dataclass
from enum import Enum
from functools import cache
from typing import Any

from tinker_cookbook.renderers import Message

from dreadnode_runtime.data.renderers.chat import Chat, content_and_reasoning

TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "tide",
            "description": "Low tide at a pier",
            "parameters": {
                "type": "object",
                "properties": {
                    "day": {"type": "integer", "description": "Days from today"},
                    "pier": {"type": "string"},
                },
                "required": ["day"],
            },
        },
    }
]


def _user(text: str) -> dict[str, Any]:
    return {"role": "user", "content": text}


def _assistant(text: str, reasoning: str = "", **arguments: Any) -> dict[str, Any]:
    message: dict[str, Any] = {"role": "assistant", "content": text}
    if reasoning:
        message["reasoning_content"] = reasoning
    if arguments:
        function = {"name": "tide", "arguments": arguments}
        message["tool_calls"] = [{"id": "c1", "type": "function", "function": function}]
    return message


def _result(text: str) -> dict[str, Any]:
    return {"role": "tool", "content": text, "tool_call_id": "c1", "name": "tide"}


class Probe(Enum):
    """What an assistant message can hold, each with a conversation that ends with such a one."""

    TEXT = "text"
    REASONING = "reasoning"
    CALL = "tool calls"

    @property
    def chat(self) -> Chat:
        """The conversation."""
        asked = [_user("Low tide?")]
        if self is Probe.TEXT:
            return Chat([*asked, _assistant("At 6:10.")], [])
        if self is Probe.REASONING:
            return Chat([*asked, _assistant("At 6:10.", "I know it.")], [])
        return Chat([*asked, _assistant("", day=1, pier="Köln")], TOOLS)


@dataclass(frozen=True, slots=True)
class Shape:
    """A kind of conversation.

    Attributes:
        title: What it is called.
        chat: An example.
        prompt: Whether the assistant's message is next.
    """

    title: str
    chat: Chat
    prompt: bool


@cache
def shapes() -> tuple[Shape, ...]:
    """Return the kinds of conversation in which formats are compared."""
    ask, again = _user("Low tide?"), _user("And tomorrow?")
    system = {"role": "system", "content": "You are brief."}
    call = _assistant("", day=0, pier="Köln")
    told = _assistant("Let me look.", day=0, pier="Köln")
    thought = _assistant("", "I need the table.", day=0, pier="Köln")
    results = [_result("6:10"), _result("7:02")]
    return (
        Shape("plain answer", Chat([ask, _assistant("At 6:10.")], []), False),
        Shape("prompt", Chat([ask], []), True),
        Shape("system prompt", Chat([system, ask], []), True),
        Shape("several turns", Chat([ask, _assistant("At 6:10."), again], []), True),
        Shape("reasoning", Chat([ask, _assistant("At 6:10.", "Look it up.")], []), False),
        Shape("earlier reasoning", Chat([ask, _assistant("At 6:10.", "Look."), again], []), True),
        Shape("tool declarations", Chat([ask], TOOLS), True),
        Shape("system prompt and tools", Chat([system, ask], TOOLS), True),
        Shape("tool call", Chat([ask, call], TOOLS), False),
        Shape("text and tool call", Chat([ask, told], TOOLS), False),
        Shape("reasoning and tool call", Chat([ask, thought], TOOLS), False),
        Shape("tool result", Chat([ask, call, results[0]], TOOLS), True),
        Shape("tool results in a row", Chat([ask, call, *results], TOOLS), True),
        Shape("reasoning in a tool loop", Chat([ask, thought, results[0]], TOOLS), True),
    )


def reads_back(message: Message, meant: dict[str, Any]) -> bool:
    """Whether MESSAGE, read from a completion, holds what MEANT says, thinks and calls."""
    text, reasoning = content_and_reasoning(message["content"])
    calls = [
        (call.function.name, json.loads(call.function.arguments))
        for call in message.get("tool_calls", ())
    ]
    wanted = [
        (call["function"]["name"], call["function"]["arguments"])
        for call in meant.get("tool_calls", ())
    ]
    return (
        str(text).strip() == meant["content"]
        and reasoning.strip() == meant.get("reasoning_content", "")
        and calls == wanted
    )
