"""Declarations of tools in every dialect, to functions as the row gives them."""

import json
from collections.abc import Mapping
from typing import Any

from dreadnode_runtime.data.dialects.gemini import lower_types
from dreadnode_runtime.data.fields import Fields, Findings
from dreadnode_runtime.data.normal_form import Tool, Unusable, shown

FIELDS = ("tools", "tool_defs", "functions", "tool_definitions", "function_definitions")
"""Where a row's tools are looked for; the first one that holds any is used."""
_SCHEMAS = ("parameters", "input_schema", "inputSchema", "parametersJsonSchema")
_DECLARATIONS = ("functionDeclarations", "function_declarations")
_NAMED_SCHEMAS = ("properties", "patternProperties", "$defs", "definitions", "dependentSchemas")
_VALUES = ("default", "const", "enum", "examples", "example")


def read_tools(raw: Any, found: Findings) -> list[Tool]:
    """Return the functions that RAW, a list or its JSON text, declares.

    Raises:
        Unusable: It is no such list, or a tool of it is not a function with a name.
    """
    if isinstance(raw, str):
        try:
            raw = json.loads(raw) if raw.strip() else None
        except ValueError:
            raise Unusable("its tools are text and not JSON") from None
    if not raw:
        return []
    if isinstance(raw, Mapping):
        raw = [raw]
    if not isinstance(raw, list):
        raise Unusable(f"its tools are {shown(raw)}, which is not a list")
    tools: list[Tool] = []
    for each in raw:
        tools += _tool(each, found)
    return tools


def _tool(raw: Any, found: Findings) -> list[Tool]:
    if isinstance(raw, str):
        return read_tools(raw, found) if raw.lstrip().startswith("{") else _no_tool(raw)
    if not isinstance(raw, Mapping):
        return _no_tool(raw)
    fields = Fields(raw, found, "tools.")
    for name in _DECLARATIONS:
        if isinstance(declared := fields.peek(name), list):
            fields.take(name)
            fields.close()
            return [_function(each, found, gemini=True) for each in declared]
    kind = fields.peek("type")
    if kind not in (None, "function", "custom"):
        raise Unusable(f"a tool has the type {shown(kind)}; only functions are known")
    for name in ("function", "toolSpec"):
        if isinstance(body := fields.peek(name), Mapping):
            fields.take(name)
            fields.take("type")
            fields.close()
            return [_function(body, found)]
    return [_function(raw, found)]


def _no_tool(raw: Any) -> list[Tool]:
    raise Unusable(f"a tool is {shown(raw)}, which is not an object")


def _function(raw: Any, found: Findings, *, gemini: bool = False) -> Tool:
    """Return a function's declaration: every field that the row gives it, its schema cleaned."""
    if not isinstance(raw, Mapping):
        return _no_tool(raw)[0]
    fields = Fields(raw, found, "tools.")
    name = fields.peek("name")
    if not isinstance(name, str) or not name:
        raise Unusable("a tool has no name")
    tool: Tool = {}
    for key in list(fields):
        value = fields.peek(key)
        if key == "cache_control" or (key == "type" and value in ("function", "custom")):
            continue
        fields.take(key)
        if key in _SCHEMAS and "parameters" not in tool:
            parameters = _parameters(value, name)
            tool["parameters"] = lower_types(parameters) if gemini else parameters
        else:
            tool[key] = value
    fields.take("type")
    fields.close()
    return tool


def _parameters(raw: Any, name: str) -> dict[str, Any]:
    if isinstance(raw, str):
        try:
            raw = json.loads(raw) if raw.strip() else {}
        except ValueError:
            raise Unusable(f"the parameters of the tool `{name}` are not JSON") from None
    if not isinstance(raw, Mapping):
        raise Unusable(f"the parameters of the tool `{name}` are {shown(raw)}, not an object")
    if set(raw) == {"json"} and isinstance(raw["json"], Mapping):
        raw = raw["json"]
    cleaned: dict[str, Any] = _schema(raw)
    return cleaned


def _schema(schema: Any) -> Any:
    """Return SCHEMA without its null fields: null is not a schema, and Arrow adds them.

    A `default` or `const` of null stays where the schema takes null, as pydantic writes it.
    """
    if isinstance(schema, list):
        return [_schema(each) for each in schema]
    if not isinstance(schema, Mapping):
        return schema
    cleaned: dict[str, Any] = {}
    for key, value in schema.items():
        if value is None:
            if key in ("default", "const") and _takes_null(schema):
                cleaned[key] = None
        elif key in _NAMED_SCHEMAS and isinstance(value, Mapping):
            cleaned[key] = {n: _schema(each) for n, each in value.items() if each is not None}
        else:
            cleaned[key] = value if key in _VALUES else _schema(value)
    return cleaned


def _takes_null(schema: Mapping[str, Any]) -> bool:
    kind = schema.get("type")
    if kind == "null" or (isinstance(kind, list) and "null" in kind):
        return True
    if schema.get("nullable") is True:
        return True
    choices = [*(schema.get("anyOf") or []), *(schema.get("oneOf") or [])]
    return any(isinstance(each, Mapping) and _takes_null(each) for each in choices)
