"""Tool calls in every dialect: OpenAI, Anthropic, Gemini, ShareGPT and ATIF."""

import json
from collections.abc import Mapping
from typing import Any, NoReturn

from dreadnode_runtime.data.fields import Fields, Findings
from dreadnode_runtime.data.normal_form import Unusable, shown
from dreadnode_runtime.data.turns import Call


def read_call(raw: Any, found: Findings, where: str) -> Call:
    """Return the call RAW, which stands in a message of the field WHERE.

    Raises:
        Unusable: It has no name, or its arguments are not a JSON object.
    """
    if isinstance(raw, str):
        raw = _json(raw, f"a tool call of `{where}` is text and not JSON")
    if not isinstance(raw, Mapping):
        raise Unusable(f"a tool call is {shown(raw)}, which is not an object")
    outer = Fields(raw, found, f"{where}.tool_calls.")
    inner, body = outer, raw
    kind = outer.take("type")
    if kind not in (None, "function", "tool_use", "function_call", "tool_call"):
        raise Unusable(f"a tool call has the type {shown(kind)}; only functions are known")
    if isinstance(outer.peek("function"), Mapping):
        body = outer.take("function")
        inner = Fields(body, found, f"{where}.tool_calls.function.")
    name = inner.take("name", "function_name", "tool_name")
    if not isinstance(name, str) or not name:
        raise Unusable("a tool call has no name")
    key = next((each for each in _ARGUMENTS if body.get(each) is not None), None)
    if key is not None:
        inner.take(key)
    call_id = outer.take("id", "tool_call_id", "call_id")
    outer.close()
    if inner is not outer:
        inner.close()
    arguments = None if key is None else body[key]
    return Call(name, _arguments(arguments, name), call_id if isinstance(call_id, str) else None)


def read_calls(raw: Any, found: Findings, where: str) -> list[Call]:
    """Return the calls that the text or list RAW holds.

    Raises:
        Unusable: It is not JSON, or one cannot be read.
    """
    if isinstance(raw, str):
        raw = _json(raw, f"the tool calls of `{where}` are text and not JSON")
    calls = raw if isinstance(raw, list) else [raw]
    if not calls:
        raise Unusable(f"tool calls of `{where}` without a call")
    return [read_call(call, found, where) for call in calls]


_ARGUMENTS = ("arguments", "args", "input", "parameters")


def _arguments(arguments: Any, name: str) -> str | dict[str, Any]:
    if arguments is None:
        return {}
    if isinstance(arguments, Mapping):
        return dict(arguments)
    if not isinstance(arguments, str):
        raise Unusable(
            f"the arguments of a call of `{name}` are {shown(arguments)}, not a JSON object"
        )
    if not arguments.strip():
        return {}
    value = _json(arguments, f"the arguments of a call of `{name}` are not JSON")
    if not isinstance(value, dict):
        raise Unusable(f"the arguments of a call of `{name}` are {shown(value)}, not a JSON object")
    return arguments


def _json(text: str, otherwise: str) -> Any:
    try:
        return json.loads(text, parse_constant=_no_constant)
    except ValueError:
        raise Unusable(otherwise) from None


def _no_constant(name: str) -> NoReturn:
    raise ValueError(name)
