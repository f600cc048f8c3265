"""What the dialects read a row into, and how that becomes a conversation in normal form."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from dreadnode_runtime.data import marks
from dreadnode_runtime.data.fields import Findings
from dreadnode_runtime.data.normal_form import (
    Conversation,
    Message,
    Part,
    Role,
    TextPart,
    ThinkingPart,
    Tool,
    ToolCall,
    content_text,
)
from dreadnode_runtime.data.nulls import without_foreign_nulls
from dreadnode_runtime.data.reasoning import split_reasoning

_CALL = "<tool_call>"


@dataclass(slots=True)
class Call:
    """A tool call; its arguments are an object until the tool's schema is at hand, or text."""

    name: str
    arguments: str | dict[str, Any]
    id: str | None = None


@dataclass(slots=True)
class Turn:
    """A message as a dialect reads it.

    Attributes:
        role: The author.
        parts: Text, reasoning and images, as they stand in the row.
        calls: Tool calls of the assistant.
        call_id: Which call a tool message answers.
        name: Which function a tool message answers.
        mark: Whether the row marks it for training.
        continues: Whether it belongs to an assistant message directly before it.
    """

    role: Role
    parts: list[Part] = field(default_factory=list)
    calls: list[Call] = field(default_factory=list)
    call_id: str | None = None
    name: str | None = None
    mark: bool | None = None
    continues: bool = False


def text_turn(role: Role, text: str) -> Turn:
    """Return a message of ROLE that holds TEXT."""
    return Turn(role, [TextPart(type="text", text=text)])


def assemble(
    turns: Sequence[Turn], tools: list[Tool], found: Findings, *, answers: int = 0
) -> Conversation:
    """Return the conversation of TURNS.

    Args:
        turns: Every message of the row, in order.
        tools: What the assistant can call.
        found: Takes the notes.
        answers: How many of the last turns are the answer to the rest, where the row says so: only
            they carry loss. 0 where it does not.

    Raises:
        Unusable: A message's reasoning cannot be separated from its text.
    """
    first_answer = len(turns) - answers
    if answers:
        for turn in turns[:first_answer]:
            turn.mark = False
    merged = _merged(turns)
    messages = [_message(turn, tools, found) for turn in merged]
    _link_results(messages)
    if not tools and any("tool_calls" in message for message in messages):
        found.notes["tools are called and none is described"] = None
    chosen = marks.chosen([t.mark for t in merged], [t.role for t in merged])
    return Conversation(
        messages, tools, chosen, unread=tuple(found.unread), notes=tuple(found.notes)
    )


def _merged(turns: Sequence[Turn]) -> list[Turn]:
    """Join system messages at the start, and calls to the assistant's message before them."""
    merged: list[Turn] = []
    for turn in turns:
        last = merged[-1] if merged else None
        if last and last.role == turn.role == "system" and len(merged) == 1:
            last.parts += [TextPart(type="text", text="\n\n"), *turn.parts]
        elif last and last.role == "assistant" and turn.continues and last.mark == turn.mark:
            last.parts += turn.parts
            last.calls += turn.calls
        else:
            merged.append(turn)
    return merged


def _message(turn: Turn, tools: list[Tool], found: Findings) -> Message:
    parts = _joined(turn.parts)
    if turn.role == "assistant":
        parts = split_reasoning(parts)
        if any(part["type"] == "text" and _CALL in part["text"] for part in parts):
            found.notes[f"{_CALL} in an answer is trained as text; write calls as `tool_calls`"] = (
                None
            )
    content = parts if any(part["type"] != "text" for part in parts) else _text(parts)
    message: Message = {"role": turn.role, "content": content}
    if turn.calls:
        message["tool_calls"] = [_call(call, tools, found) for call in turn.calls]
    if turn.call_id is not None:
        message["tool_call_id"] = turn.call_id
    if turn.name is not None:
        message["name"] = turn.name
    return message


def _joined(parts: list[Part]) -> list[Part]:
    """Return PARTS with adjacent text as one part, and without reasoning that is blank."""
    if len(parts) == 1 and parts[0]["type"] == "text":
        return parts
    joined: list[Part] = []
    for part in parts:
        if part["type"] == "thinking" and not part["thinking"].strip():
            continue
        last = joined[-1] if joined else None
        if last and last["type"] == "text" and part["type"] == "text":
            joined[-1] = TextPart(type="text", text=last["text"] + part["text"])
        elif last and last["type"] == "thinking" and part["type"] == "thinking":
            both = f"{last['thinking']}\n\n{part['thinking']}"
            joined[-1] = ThinkingPart(type="thinking", thinking=both)
        else:
            joined.append(part)
    return joined


def _text(parts: list[Part]) -> str:
    return (
        parts[0]["text"] if len(parts) == 1 and parts[0]["type"] == "text" else content_text(parts)
    )


def _call(call: Call, tools: list[Tool], found: Findings) -> ToolCall:
    arguments = call.arguments
    if isinstance(arguments, dict):
        schema = next((t.get("parameters") for t in tools if t["name"] == call.name), None)
        kept = without_foreign_nulls(arguments, schema)
        if kept != arguments:
            found.notes["null arguments that the tool's schema does not have are left out"] = None
        arguments = json.dumps(kept, ensure_ascii=False)
    return ToolCall(id=call.id, name=call.name, arguments=arguments)


def _link_results(messages: list[Message]) -> None:
    """Give each tool message the id and the function of its call: by id, else by order."""
    calls: dict[str, ToolCall] = {}
    waiting: list[ToolCall] = []
    for message in messages:
        if made := message.get("tool_calls"):
            waiting = list(made)
            calls |= {call["id"]: call for call in made if call["id"] is not None}
        if message["role"] != "tool":
            continue
        call = _answered(message, calls, waiting)
        if call is None:
            continue
        if call in waiting:
            waiting.remove(call)
        message.setdefault("name", call["name"])
        if call["id"] is not None:
            message.setdefault("tool_call_id", call["id"])


def _answered(
    message: Message, calls: dict[str, ToolCall], waiting: list[ToolCall]
) -> ToolCall | None:
    """Return the call that MESSAGE answers, if any."""
    call_id, name = message.get("tool_call_id"), message.get("name")
    if call_id is not None and call_id in calls:
        return calls[call_id]
    # By name first, as old functions and Gemini do: results may come in another order.
    named = next((call for call in waiting if call["name"] == name), None)
    if name is not None:
        return named
    without_id = call_id is None or all(call["id"] is None for call in waiting)
    return waiting[0] if waiting and without_id else None
