"""The parts of a message's content: text, reasoning, images, calls and results.

What only one vendor has is read in that vendor's module.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from dreadnode_runtime.data.dialects import anthropic, gemini
from dreadnode_runtime.data.fields import Fields, Findings
from dreadnode_runtime.data.images import read_image
from dreadnode_runtime.data.normal_form import Part, TextPart, ThinkingPart, Unusable, shown
from dreadnode_runtime.data.turns import Call

_TEXT = frozenset({"text", "input_text", "output_text"})
_THINKING = frozenset({"thinking", "reasoning", "thought"})
_IMAGE = frozenset({"image", "image_url", "input_image", "image_base64"})


@dataclass(slots=True)
class Result:
    """A tool's result that stands in the content of a message."""

    parts: list[Part]
    call_id: str | None = None
    name: str | None = None


Contents = tuple[list[Part], list[Call], list[Result]]


def read_content(content: Any, found: Findings, path: str) -> Contents:
    """Return the parts of CONTENT, its calls and its results; PATH is where a part stands.

    Raises:
        Unusable: It is neither text nor a list of parts that are known.
    """
    if content is None:
        return [], [], []
    if isinstance(content, str):
        return [TextPart(type="text", text=content)], [], []
    if isinstance(content, Mapping):
        content = [content]
    if not isinstance(content, list):
        raise Unusable(f"a message's content is {shown(content)}, neither text nor parts")
    parts: list[Part] = []
    calls: list[Call] = []
    results: list[Result] = []
    for each in content:
        read = _part(each, found, path)
        if isinstance(read, Call):
            calls.append(read)
        elif isinstance(read, Result):
            results.append(read)
        elif read is not None:
            parts.append(read)
    return parts, calls, results


def _part(raw: Any, found: Findings, path: str) -> Part | Call | Result | None:
    """Return what the part RAW is; None for one that is counted as not read."""
    if isinstance(raw, str):
        return TextPart(type="text", text=raw)
    if not isinstance(raw, Mapping):
        raise Unusable(f"a part of a message's content is {shown(raw)}, which is not an object")
    fields = Fields(raw, found, path)
    read = _typed(fields, found, path) if "type" in fields else _untyped(fields, found, path)
    fields.close()
    return read


def _typed(fields: Fields, found: Findings, path: str) -> Part | Call | Result | None:
    kind = fields.take("type")
    if kind in _TEXT and isinstance(fields.peek("text"), str):
        return TextPart(type="text", text=fields.take("text"))
    if kind in _THINKING:
        thought = fields.take("thinking", "reasoning", "text", "content")
        if isinstance(thought, str):
            return ThinkingPart(type="thinking", thinking=thought)
    elif kind in ("redacted_thinking", "refusal"):
        for name in list(fields):
            fields.take(name)
        found.unread[f"{path}{kind}"] = None
        return None
    elif kind == "tool_use":
        return anthropic.tool_use(fields)
    elif kind == "tool_result":
        parts, call_id = anthropic.tool_result(fields, found, path, read_content)
        return Result(parts, call_id)
    elif kind in _IMAGE:
        return read_image(fields)
    raise Unusable(f"a part of a message's content has the type {shown(kind)}, which is unknown")


def _untyped(fields: Fields, found: Findings, path: str) -> Part | Call | Result:
    """Return a part whose only field says what it is, as Gemini writes them."""
    if (call := gemini.function_call(fields, found, path)) is not None:
        return call
    if (response := gemini.function_response(fields, found, path)) is not None:
        text, name, call_id = response
        return Result([TextPart(type="text", text=text)], call_id, name)
    if isinstance(text := fields.peek("text"), str):
        fields.take("text")
        if fields.take("thought") is True:
            return ThinkingPart(type="thinking", thinking=text)
        return TextPart(type="text", text=text)
    if any(name in fields for name in ("inlineData", "inline_data", "image", "image_url")):
        return read_image(fields)
    names = ", ".join(f"`{name}`" for name in fields) or "no field"
    raise Unusable(f"a part of a message's content has no type, and has {names}")
