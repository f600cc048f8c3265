"""Anthropic's content blocks: a call and a result stand in the content of a message."""

import json
from collections.abc import Callable
from typing import Any

from dreadnode_runtime.data.dialects.tool_calls import read_call
from dreadnode_runtime.data.fields import Fields, Findings
from dreadnode_runtime.data.normal_form import Part, TextPart, Unusable
from dreadnode_runtime.data.turns import Call


def tool_use(fields: Fields) -> Call:
    """Return the call of a `tool_use` block.

    Raises:
        Unusable: It has no name, or its input is not an object.
    """
    block = {name: fields.take(name) for name in ("id", "name", "input") if name in fields}
    return read_call(block, Findings(), "messages")


def tool_result(
    fields: Fields, found: Findings, path: str, read_content: Callable[..., Any]
) -> tuple[list[Part], str | None]:
    """Return the parts of a `tool_result` block, and the id of the call that it answers."""
    call_id = fields.take("tool_use_id")
    content = fields.take("content")
    if fields.peek("is_error") is False:
        fields.take("is_error")
    try:
        parts, calls, results = read_content(content, found, f"{path}content.")
    except Unusable:
        # A result may be any JSON; only what looks like parts is read as such.
        if isinstance(content, list) and any(
            isinstance(each, dict) and "type" in each for each in content
        ):
            raise
        text = json.dumps(content, ensure_ascii=False)
        parts, calls, results = [TextPart(type="text", text=text)], [], []
    if calls or results:
        raise Unusable("a tool result holds a tool call or another result")
    return parts, call_id if isinstance(call_id, str) else None
