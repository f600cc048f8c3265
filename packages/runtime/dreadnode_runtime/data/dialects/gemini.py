"""Gemini's contents: `parts` with functionCall and functionResponse, and declarations of tools."""

import json
from collections.abc import Mapping
from typing import Any

from dreadnode_runtime.data.dialects.tool_calls import read_call
from dreadnode_runtime.data.fields import Fields, Findings
from dreadnode_runtime.data.normal_form import Unusable, shown
from dreadnode_runtime.data.turns import Call


def function_call(fields: Fields, found: Findings, path: str) -> Call | None:
    """Return the call of a part, if it is one.

    Raises:
        Unusable: It cannot be read.
    """
    raw = fields.take("functionCall", "function_call")
    return None if raw is None else read_call(raw, found, path.removesuffix("."))


def function_response(
    fields: Fields, found: Findings, path: str
) -> tuple[str, str | None, str | None] | None:
    """Return the text of a part's function response, its function and its call's id, if it is one.

    Raises:
        Unusable: It is not an object.
    """
    raw = fields.take("functionResponse", "function_response")
    if raw is None:
        return None
    if not isinstance(raw, Mapping):
        raise Unusable(f"a function response is {shown(raw)}, which is not an object")
    inner = Fields(raw, found, f"{path}functionResponse.")
    response, name, call_id = inner.take("response"), inner.take("name"), inner.take("id")
    inner.close()
    text = response if isinstance(response, str) else json.dumps(response, ensure_ascii=False)
    return (
        "" if response is None else text,
        name if isinstance(name, str) else None,
        call_id if isinstance(call_id, str) else None,
    )


def lower_types(schema: Any) -> Any:
    """Return SCHEMA with its types as JSON Schema writes them: Gemini writes `OBJECT`."""
    if isinstance(schema, list):
        return [lower_types(each) for each in schema]
    if not isinstance(schema, Mapping):
        return schema
    return {
        name: value.lower() if name == "type" and isinstance(value, str) else lower_types(value)
        for name, value in schema.items()
    }
