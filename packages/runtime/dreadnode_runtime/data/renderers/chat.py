"""The form of a conversation that every writer takes: messages and tools as servers take them.

What all formats need is done here once: results get the name of the function that they answer,
blank reasoning counts as none, and control tokens in text are covered.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from dreadnode_runtime.data.normal_form import Conversation, Unusable


@dataclass(frozen=True, slots=True)
class Chat:
    """A conversation, ready to be written.

    Attributes:
        messages: Each with `role` and `content` (a string, or parts where it holds images), and
            `reasoning_content`, `tool_calls`, `tool_call_id`, `name` where they apply.
        tools: Each `{"type": "function", "function": {…}}`.
    """

    messages: list[dict[str, Any]]
    tools: list[dict[str, Any]]

    def until(self, index: int) -> "Chat":
        """Return the messages before INDEX, with all tools."""
        return Chat(self.messages[:index], self.tools)


def chat_of(conversation: Conversation, cover: Callable[[str], str]) -> Chat:
    """Return CONVERSATION in the form that is written, its text covered."""
    messages: list[dict[str, Any]] = []
    waiting: list[dict[str, Any]] = []
    for each in conversation.messages:
        message = _message(each, cover)
        if message["role"] == "tool":
            _name_result(message, waiting)
        elif message["role"] == "assistant":
            waiting = list(message.get("tool_calls", ()))
        messages.append(message)
    return Chat(messages, [_covered(_tool(tool), cover) for tool in conversation.tools])


def _message(source: Mapping[str, Any], cover: Callable[[str], str]) -> dict[str, Any]:
    text, reasoning = content_and_reasoning(source["content"])
    message: dict[str, Any] = {"role": source["role"], "content": _covered(text, cover)}
    if reasoning.strip():
        message["reasoning_content"] = cover(reasoning)
    if calls := source.get("tool_calls"):
        message["tool_calls"] = [_call(call, cover) for call in calls]
    for key in ("tool_call_id", "name"):
        if source.get(key) and (key != "name" or source["role"] == "tool"):
            message[key] = cover(source[key])
    return message


def content_and_reasoning(content: Any) -> tuple[Any, str]:
    """Return what a message says and what it thinks; parts stay parts where images are."""
    if isinstance(content, str):
        return content, ""
    reasoning = "".join(part["thinking"] for part in content if part["type"] == "thinking")
    rest = [part for part in content if part["type"] != "thinking"]
    if all(part["type"] == "text" for part in rest):
        return "".join(part["text"] for part in rest), reasoning
    return rest, reasoning


def _call(call: Mapping[str, Any], cover: Callable[[str], str]) -> dict[str, Any]:
    arguments = call["arguments"]
    if isinstance(arguments, str):
        arguments = json.loads(arguments) if arguments.strip() else {}
    function = {"name": cover(call["name"]), "arguments": _covered(arguments, cover)}
    call_id = call.get("id")
    made: dict[str, Any] = {"type": "function", "function": function}
    return made if not call_id else {"id": cover(call_id), **made}


def _tool(tool: Mapping[str, Any]) -> dict[str, Any]:
    if isinstance(tool.get("function"), Mapping):
        return dict(tool)
    return {"type": "function", "function": dict(tool)}


def _covered(value: Any, cover: Callable[[str], str]) -> Any:
    if isinstance(value, str):
        return cover(value)
    if isinstance(value, Mapping):
        return {cover(key): _covered(item, cover) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_covered(item, cover) for item in value]
    return value


def _name_result(message: dict[str, Any], waiting: list[dict[str, Any]]) -> None:
    """Give a result the name and id of the call that it answers: by id, else by name, else next."""
    by_id = [call for call in waiting if call.get("id") == message.get("tool_call_id")]
    by_name = [call for call in waiting if call["function"]["name"] == message.get("name")]
    found = by_id if message.get("tool_call_id") else by_name
    found = found or by_name or waiting
    if not found:
        return
    call = found[0]
    # Where several results answer one call, the last waiting call stays to be answered again.
    if len(waiting) > 1:
        waiting.remove(call)
    message["name"] = call["function"]["name"]
    if "id" in call:
        message["tool_call_id"] = call["id"]


def one_call_each(chat: Chat) -> tuple[Chat, list[int]]:
    """Return CHAT with one tool call in a message, and which of its messages each new one is of.

    Parallel calls become consecutive calls, each followed by its result.

    Raises:
        Unusable: There are parallel calls, and not each of them has one result.
    """
    messages: list[dict[str, Any]] = []
    origins: list[int] = []
    index = 0
    while index < len(chat.messages):
        message = chat.messages[index]
        calls = message.get("tool_calls", [])
        if len(calls) < 2:
            messages.append(message)
            origins.append(index)
            index += 1
            continue
        results = chat.messages[index + 1 : index + 1 + len(calls)]
        if len(results) < len(calls) or any(result["role"] != "tool" for result in results):
            raise Unusable("the format has one tool call in a message, and this row several")
        for number, call in enumerate(calls):
            first = message if number == 0 else {"role": "assistant", "content": ""}
            messages += [{**first, "tool_calls": [call]}, _result_of(call, number, results)]
            origins += [index, index + 1 + number]
        index += 1 + len(calls)
    return Chat(messages, chat.tools), origins


def _result_of(call: dict[str, Any], number: int, results: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the one of RESULTS that has the id of CALL, or else stands at its NUMBER."""
    same = (r for r in results if "id" in call and r.get("tool_call_id") == call["id"])
    return next(same, results[number])


def without_booleans(schema: Any) -> Any:
    """Return SCHEMA with `true` where a schema belongs as the empty schema, which says the same."""
    if isinstance(schema, list):
        return [without_booleans(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    made = {key: without_booleans(value) for key, value in schema.items()}
    if isinstance(properties := made.get("properties"), dict):
        made["properties"] = {k: {} if v is True else v for k, v in properties.items()}
    if made.get("items") is True:
        made["items"] = {}
    return made
