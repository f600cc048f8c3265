"""Rows of a dataset, in any of the usual shapes, to one kind of conversation.

Nothing here knows a tokenizer: a row either is a conversation or is unusable for a named reason.

| shape | fields |
| --- | --- |
| chat | `messages`: role, content, tool_calls, tool_call_id, name, weight; `tools` |
| ShareGPT | `conversations`: from, value; `system`, `tools` |
| trajectory (ATIF) | `steps`: source, message, reasoning_content, tool_calls, observation |
| prompt and answer | one of PROMPT_KEYS, one of ANSWER_KEYS; `system` or `system_prompt` |
| instruction | `instruction`, optionally `input`, with one of ANSWER_KEYS |
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

PROMPT_KEYS = ("prompt", "input", "question", "task_prompt")
"""Where a prompt is looked for; the first one that the row has is used."""
ANSWER_KEYS = ("response", "completion", "expected_output", "target", "answer", "output")
"""Where an answer is looked for; the first one that the row has and is not null is used."""
ROLES = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "human": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "model": "assistant",
    "agent": "assistant",
    "tool": "tool",
    "function": "tool",
    "observation": "tool",
}
"""Names of speakers in the field, and the four roles that renderers know."""

Row = Mapping[str, Any]
Message = dict[str, Any]


class Unusable(Exception):
    """A row that cannot be trained on; the text is the reason it is counted under."""


@dataclass(frozen=True, slots=True)
class Conversation:
    """What one row says.

    Attributes:
        messages: Each with `role` (system, user, assistant or tool) and `content`, which is text
            or a list of `text` and `thinking` parts; and `tool_calls`, `tool_call_id`, `name` where
            the row has them.
        tools: What the assistant could call: name, description and JSON-schema parameters.
        chosen: Indices of the assistant messages that the row itself marks for training (`weight`
            or `trainable`); None when it leaves that to the job.
    """

    messages: list[Message]
    tools: list[dict[str, Any]] = field(default_factory=list)
    chosen: frozenset[int] | None = None


def read_rows(path: Path) -> Iterator[tuple[int, Row]]:
    """Yield the objects of the JSONL file at PATH, each with its row number, from 1.

    Blank lines are no rows and have no number.

    Raises:
        ValueError: A line is not a JSON object; the sentence names it.
    """
    row = 0
    with path.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            row += 1
            try:
                value = json.loads(line)
            except ValueError as error:
                raise ValueError(f"Line {number} is not JSON") from error
            if not isinstance(value, dict):
                raise ValueError(f"Line {number} is not a JSON object")  # noqa: TRY004
            yield row, value


def encodable(row: Row) -> Row:
    """Return ROW if all text in it is Unicode that can be written as UTF-8, and so be tokenized.

    Raises:
        Unusable: A text in it holds half of a character, which JSON can write as an escape.
    """
    try:
        json.dumps(row, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise Unusable("text with half a character in it, a lone surrogate") from None
    return row


def conversation(row: Row) -> Conversation:
    """Return what ROW says, whichever of the usual shapes it has.

    Raises:
        Unusable: It has none of them, or what it holds cannot be trained on.
    """
    if isinstance(row.get("messages"), list):
        return _chat(row["messages"], row)
    if isinstance(row.get("conversations"), list):
        return _chat([_sharegpt(turn) for turn in row["conversations"]], row)
    if isinstance(row.get("steps"), list):
        return _chat([m for step in row["steps"] for m in _trajectory_step(step)], row)
    return _prompt_and_answer(row)


def with_system_prompt(said: Conversation, prompt: str | None) -> Conversation:
    """Return SAID with PROMPT in front: before its own system message, or as one."""
    if not prompt:
        return said
    first = said.messages[0]
    if first["role"] == "system":
        joined = {**first, "content": f"{prompt}\n\n{content_text(first['content'])}"}
        return Conversation([joined, *said.messages[1:]], said.tools, said.chosen)
    chosen = None if said.chosen is None else frozenset(index + 1 for index in said.chosen)
    return Conversation([{"role": "system", "content": prompt}, *said.messages], said.tools, chosen)


def _chat(turns: list[Any], row: Row) -> Conversation:
    if not turns:
        raise Unusable("no messages")
    messages = [_message(turn) for turn in turns]
    system = row.get("system") or row.get("system_prompt")
    shift = 0
    if isinstance(system, str) and system and messages[0]["role"] != "system":
        messages.insert(0, {"role": "system", "content": system})
        shift = 1
    marks = {i + shift: _mark(t) for i, t in enumerate(turns) if _mark(t) is not None}
    chosen = None
    if marks:
        # A row that marks some of its messages leaves the unmarked assistant messages trained,
        # which is what `weight` means where it comes from: its default is 1.
        chosen = frozenset(
            i for i, m in enumerate(messages) if m["role"] == "assistant" and marks.get(i, True)
        )
    return Conversation(messages, tool_specs(row.get("tools")), chosen)


def _message(turn: Any) -> Message:
    if not isinstance(turn, Mapping):
        raise Unusable("a message is not an object")
    role = ROLES.get(str(turn.get("role", "")).lower())
    if role is None:
        raise Unusable("a message has an unknown role")
    message: Message = {"role": role}
    calls = turn.get("tool_calls")
    if calls:
        if role != "assistant" or not isinstance(calls, list):
            raise Unusable("tool calls outside an assistant message")
        message["tool_calls"] = [_tool_call(call) for call in calls]
    content = _content(turn.get("content"), absent_is_empty=bool(calls))
    reasoning = turn.get("reasoning_content") or turn.get("reasoning") or turn.get("thinking")
    if reasoning:
        if not isinstance(reasoning, str):
            raise Unusable("a message's reasoning is not text")
        rest = [{"type": "text", "text": content}] if isinstance(content, str) else content
        content = [{"type": "thinking", "thinking": reasoning}, *rest]
    message["content"] = content
    for key in ("tool_call_id", "name"):
        if isinstance(turn.get(key), str):
            message[key] = turn[key]
    return message


def _content(content: Any, *, absent_is_empty: bool) -> str | list[dict[str, Any]]:
    """Return text, or parts when there is reasoning among them."""
    if content is None:
        if absent_is_empty:
            return ""
        raise Unusable("a message without content")
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        raise Unusable("a message's content is neither text nor parts")
    parts = [_part(part) for part in content]
    if any(part["type"] == "thinking" for part in parts):
        return parts
    return "".join(part["text"] for part in parts)


def _part(part: Any) -> dict[str, Any]:
    if isinstance(part, str):
        return {"type": "text", "text": part}
    kind = part.get("type") if isinstance(part, Mapping) else None
    if kind in ("text", "input_text", "output_text") and isinstance(part.get("text"), str):
        return {"type": "text", "text": part["text"]}
    if kind in ("thinking", "reasoning"):
        thought = part.get("thinking") or part.get("reasoning") or part.get("text")
        if isinstance(thought, str):
            return {"type": "thinking", "thinking": thought}
    if isinstance(kind, str) and any(word in kind for word in ("image", "audio", "video", "file")):
        raise Unusable("images, audio or files in a message")
    raise Unusable("a part of a message's content is not understood")


def _tool_call(call: Any) -> dict[str, Any]:
    """Return CALL as {id, name, arguments}, arguments being the text of a JSON object."""
    if not isinstance(call, Mapping):
        raise Unusable("a tool call is not understood")
    function = call["function"] if isinstance(call.get("function"), Mapping) else call
    name = function.get("name", function.get("function_name"))
    arguments = function.get("arguments")
    if not isinstance(name, str):
        raise Unusable("a tool call has no name")
    if isinstance(arguments, str):
        try:
            arguments = json.loads(arguments)
        except ValueError as error:
            raise Unusable("a tool call's arguments are not JSON") from error
    if arguments is None:
        arguments = {}
    if not isinstance(arguments, dict):
        raise Unusable("a tool call's arguments are not a JSON object")
    call_id = call.get("id", call.get("tool_call_id"))
    return {
        "id": call_id if isinstance(call_id, str) else None,
        "name": name,
        "arguments": json.dumps(arguments, ensure_ascii=False),
    }


def tool_specs(tools: Any) -> list[dict[str, Any]]:
    """Return TOOLS, in any of the usual shapes, as name, description and parameters.

    Raises:
        Unusable: They are no such list.
    """
    if isinstance(tools, str):
        try:
            tools = json.loads(tools) if tools.strip() else None
        except ValueError as error:
            raise Unusable("its tools are not JSON") from error
    if not tools:
        return []
    if not isinstance(tools, list):
        raise Unusable("its tools are not a list")
    specs = []
    for tool in tools:
        body = tool.get("function", tool) if isinstance(tool, Mapping) else None
        if not isinstance(body, Mapping) or not isinstance(body.get("name"), str):
            raise Unusable("a tool has no name")
        parameters = body.get("parameters") or {}
        if not isinstance(parameters, Mapping):
            raise Unusable("a tool's parameters are not an object")
        specs.append(
            {
                "name": body["name"],
                "description": str(body.get("description") or ""),
                "parameters": dict(parameters),
            }
        )
    return specs


def _mark(turn: Any) -> bool | None:
    """Whether TURN says that it is to be trained on; None when it says nothing."""
    for key in ("weight", "trainable", "train"):
        if isinstance(turn, Mapping) and turn.get(key) is not None:
            mark = turn[key]
            if mark not in (0, 1):
                raise Unusable(f"a message's {key} is neither 0 nor 1")
            return bool(mark)
    return None


def _sharegpt(turn: Any) -> Any:
    if not isinstance(turn, Mapping) or "from" not in turn:
        return turn
    return {"role": turn["from"], "content": turn.get("value"), "weight": turn.get("weight")}


def _trajectory_step(step: Any) -> Iterator[Message]:
    """Yield the message of an ATIF step, and one tool message for each of its observations."""
    if not isinstance(step, Mapping):
        raise Unusable("a step is not an object")
    calls = step.get("tool_calls") or None
    if calls is not None and not isinstance(calls, list):
        raise Unusable("a step's tool calls are not a list")
    yield {
        "role": step.get("source"),
        "content": step.get("message") if step.get("message") is not None else "",
        "reasoning_content": step.get("reasoning_content"),
        "tool_calls": calls,
    }
    observation = step.get("observation")
    results = observation.get("results") if isinstance(observation, Mapping) else None
    names = {_tool_call(call)["id"]: _tool_call(call)["name"] for call in calls or []}
    if results is not None and not isinstance(results, list):
        raise Unusable("an observation's results are not a list")
    for result in results or []:
        if not isinstance(result, Mapping):
            raise Unusable("an observation is not an object")
        source = result.get("source_call_id")
        yield {
            "role": "tool",
            "content": result.get("content") if result.get("content") is not None else "",
            "tool_call_id": source,
            "name": names.get(source) if isinstance(source, str) else None,
        }


def _prompt_and_answer(row: Row) -> Conversation:
    answer = next((row[key] for key in ANSWER_KEYS if row.get(key) is not None), None)
    prompt = asked_of(row)
    if prompt is None and answer is None:
        raise Unusable("no messages, and no prompt with an answer")
    if prompt is None or prompt == "":
        raise Unusable("no prompt")
    if answer is None:
        raise Unusable("no answer")
    if answer == "":
        raise Unusable("an empty answer")
    asked = (
        prompt if isinstance(prompt, list) else [{"role": "user", "content": scalar_text(prompt)}]
    )
    replied = (
        answer
        if isinstance(answer, list)
        else [{"role": "assistant", "content": scalar_text(answer)}]
    )
    return _chat([*asked, *replied], row)


def asked_of(row: Row) -> Any:
    """Return what ROW asks outside of a chat: its instruction with its input, or its prompt."""
    instruction = row.get("instruction")
    if isinstance(instruction, str) and instruction:
        context = row.get("input")
        return instruction if context in (None, "") else f"{instruction}\n\n{scalar_text(context)}"
    return next((row[key] for key in PROMPT_KEYS if row.get(key) is not None), None)


def scalar_text(value: Any) -> str:
    """Return text as it is, and a number or truth value as JSON writes it: 0 is an answer.

    Raises:
        Unusable: VALUE is something else.
    """
    if isinstance(value, str):
        return value
    if isinstance(value, int | float):
        return json.dumps(value)
    raise Unusable("its prompt or answer is not text")


def content_text(content: str | list[dict[str, Any]]) -> str:
    """Return what a message's CONTENT says, its reasoning left out."""
    if isinstance(content, str):
        return content
    return "".join(part.get("text", "") for part in content)
