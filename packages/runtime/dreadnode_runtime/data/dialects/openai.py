"""OpenAI's messages: role, content, tool calls, and the older function calls.

Every other dialect that has messages is read through `read_message`, which takes the fields of all
of them: rows in the field mix them freely. What only one dialect has is in that dialect's module.
"""

import json
from collections.abc import Mapping
from typing import Any

from dreadnode_runtime.data import marks
from dreadnode_runtime.data.dialects.parts import Result, read_content
from dreadnode_runtime.data.dialects.tool_calls import read_call, read_calls
from dreadnode_runtime.data.fields import Fields, Findings
from dreadnode_runtime.data.normal_form import Part, Role, TextPart, ThinkingPart, Unusable, shown
from dreadnode_runtime.data.turns import Call, Turn, text_turn

ROLES: dict[str, Role] = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "human": "user",
    "prompter": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "model": "assistant",
    "agent": "assistant",
    "ai": "assistant",
    "function_call": "assistant",
    "tool_call": "assistant",
    "tool_calls": "assistant",
    "tool": "tool",
    "function": "tool",
    "observation": "tool",
    "tool_response": "tool",
    "tool_result": "tool",
    "function_response": "tool",
    "ipython": "tool",
}
"""Names of speakers in the field, and the four roles of the normal form."""
CALLERS = frozenset({"function_call", "tool_call", "tool_calls"})
"""Speakers whose text is a tool call as JSON (ShareGPT, LLaMA-Factory, ms-swift)."""
CONTENT = ("content", "value", "text")
REASONING = ("reasoning_content", "reasoning", "thinking", "thought")


def read_messages(raw: list[Any], found: Findings, where: str = "messages") -> list[Turn]:
    """Return the turns of the messages RAW, which stand in the field WHERE.

    Raises:
        Unusable: One cannot be read.
    """
    return [turn for each in raw for turn in read_message(each, found, where)]


def read_message(raw: Any, found: Findings, where: str = "messages") -> list[Turn]:
    """Return the turns of one message: itself, and each tool result that it holds.

    Raises:
        Unusable: It cannot be read.
    """
    if not isinstance(raw, Mapping):
        raise Unusable(f"a message of `{where}` is {shown(raw)}, which is not an object")
    if (plain := _plain(raw)) is not None:
        return [plain]
    fields = Fields(raw, found, f"{where}.")
    speaker, role = _speaker(fields, where)
    mark = marks.message_mark(fields, role)
    turn = Turn(role, mark=mark)
    gemini = "parts" in fields
    content = fields.take("parts") if gemini else fields.take(*CONTENT)
    results: list[Result] = []
    if speaker in CALLERS:
        turn.calls, turn.continues = read_calls(content, found, where), True
    elif role == "tool" and not (gemini or _is_parts(content)):
        turn.parts = [TextPart(type="text", text=_result_text(content))]
    else:
        turn.parts, turn.calls, results = read_content(content, found, f"{where}.content.")
    _take_assistant(fields, turn, found, where)
    if role == "tool":
        turn.call_id = _text_or_none(fields.take("tool_call_id", "tool_use_id", "call_id"))
        turn.name = _text_or_none(fields.take("name"))
    if content is None and not (turn.parts or turn.calls or role == "tool" or "refusal" in fields):
        raise Unusable(f"a message of `{where}` has no content (its role is {shown(speaker)})")
    fields.close()
    if turn.calls and role != "assistant":
        raise Unusable(f"a tool call in a message with the role {shown(speaker)}")
    answered = [Turn("tool", each.parts, [], each.call_id, each.name) for each in results]
    if answered and role != "assistant" and not turn.parts:
        return answered
    return [turn, *answered] if role == "assistant" else [*answered, turn]


def _plain(raw: Mapping[str, Any]) -> Turn | None:
    """Return RAW if it is a speaker and a text, as most messages are; None otherwise."""
    if len(raw) != 2:
        return None
    speaker, text = raw.get("role"), raw.get("content")
    if not isinstance(text, str) or not isinstance(speaker, str) or speaker in CALLERS:
        return None
    role = ROLES.get(speaker)
    return None if role is None else text_turn(role, text)


def _speaker(fields: Fields, where: str) -> tuple[str, Role]:
    speaker = fields.take("role", "from")
    if speaker is None:
        raise Unusable(f"a message of `{where}` has no role")
    key = speaker.strip().lower() if isinstance(speaker, str) else ""
    if key not in ROLES:
        raise Unusable(
            f"a message has the role {shown(speaker)}, which is unknown; "
            "use system, user, assistant or tool"
        )
    return key, ROLES[key]


def _take_assistant(fields: Fields, turn: Turn, found: Findings, where: str) -> None:
    """Take the reasoning and the calls that stand beside an assistant's content."""
    calls = fields.take("tool_calls")
    if calls:
        if turn.role != "assistant":
            raise Unusable("tool calls outside an assistant message")
        if not isinstance(calls, list | str):
            raise Unusable(f"its `tool_calls` is {shown(calls)}, which is not a list")
        # Tables such as CSV hold the list as JSON text.
        turn.calls += read_calls(calls, found, where)
    if turn.role != "assistant":
        return
    if function := fields.take("function_call"):
        turn.calls.append(read_call(function, found, where))
    if reasoning := _reasoning(fields):
        turn.parts.insert(0, ThinkingPart(type="thinking", thinking=reasoning))


def _reasoning(fields: Fields) -> str:
    """Return the reasoning beside a message's text; blank reasoning is absent."""
    taken = ""
    for name in REASONING:
        value = fields.peek(name)
        if value is None:
            continue
        if not isinstance(value, str):
            raise Unusable(f"a message's `{name}` is {shown(value)}, which is not text")
        if not taken or not value.strip() or value.strip() == taken.strip():
            fields.take(name)
            taken = taken or (value if value.strip() else "")
    return taken


def _is_parts(content: Any) -> bool:
    if isinstance(content, str):
        return True
    return isinstance(content, list) and all(
        isinstance(part, str) or (isinstance(part, Mapping) and isinstance(part.get("type"), str))
        for part in content
    )


def _result_text(content: Any) -> str:
    """Return a tool's result as text: what is not text is written as JSON."""
    return "" if content is None else json.dumps(content, ensure_ascii=False)


def _text_or_none(value: Any) -> str | None:
    if value is None or (isinstance(value, str) and value):
        return value
    if value == "":
        return None
    return json.dumps(value) if isinstance(value, int) else None


__all__ = ["CALLERS", "ROLES", "Call", "Part", "read_message", "read_messages"]
