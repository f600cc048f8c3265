"""Nemotron 3's renderers, corrected to what its chat templates write.

Tinker-cookbook's escape letters that are not ASCII, fail on a property whose schema is `true`, and
trim system and user messages, which the templates leave as they are.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from tinker_cookbook.renderers import Message, ToolSpec
from tinker_cookbook.renderers.base import ContentPart
from tinker_cookbook.renderers.nemotron3 import (
    Nemotron3DisableThinkingRenderer,
    Nemotron3Renderer,
    Nemotron3UltraDisableThinkingRenderer,
    Nemotron3UltraRenderer,
)

from dreadnode_runtime.data.renderers.qwen3 import as_json


class _Corrected(Nemotron3Renderer):  # type: ignore[misc]
    def _trim_content(self, content: str | list[ContentPart]) -> str | list[ContentPart]:
        return content

    def _format_tool_call_argument(self, value: Any) -> str:
        return as_json(value) if isinstance(value, dict | list) else str(value)

    def create_conversation_prefix_with_tools(
        self, tools: Sequence[ToolSpec], system_prompt: str = ""
    ) -> list[Message]:
        """Return a system message that declares TOOLS as the chat template does."""
        marker = ToolSpec(name="tools_go_here", description="", parameters={})
        (declared,) = super().create_conversation_prefix_with_tools([marker], system_prompt)
        start = "<function>\n<name>tools_go_here"
        before, _, rest = str(declared["content"]).partition(start)
        after = rest.partition("</function>")[2]
        lines = "\n".join("\n".join(_declared(tool)) for tool in tools)
        return [Message(role="system", content=before + lines + after)]


def _declared(tool: Mapping[str, Any]) -> Iterator[str]:
    yield f"<function>\n<name>{tool['name']}</name>"
    if "description" in tool:
        yield f"<description>{str(tool['description']).strip()}</description>"
    yield "<parameters>"
    parameters = tool.get("parameters")
    if isinstance(parameters, Mapping):
        for name, schema in (parameters.get("properties") or {}).items():
            yield f"<parameter>\n<name>{name}</name>"
            yield from _schema(schema if isinstance(schema, Mapping) else {})
            yield "</parameter>"
        yield from _others(parameters, {"type", "properties", "required"})
        if "required" in parameters:
            yield f"<required>{as_json(parameters['required'])}</required>"
    yield "</parameters>"
    yield from _others(tool, {"type", "name", "description", "parameters"})
    yield "</function>"


def _schema(schema: Mapping[str, Any]) -> Iterator[str]:
    if "type" in schema:
        yield f"<type>{schema['type']}</type>"
    if "description" in schema:
        yield f"<description>{str(schema['description']).strip()}</description>"
    if "enum" in schema:
        yield f"<enum>{as_json(schema['enum'])}</enum>"
    yield from _others(schema, {"name", "type", "description", "enum"})


def _others(values: Mapping[str, Any], handled: set[str]) -> Iterator[str]:
    for key, value in values.items():
        if key not in handled:
            text = as_json(value) if isinstance(value, Mapping | list) else str(value)
            yield f"<{key}>{text}</{key}>"


class Nemotron(_Corrected):
    """Nemotron 3 Nano and Super with thinking."""


class NemotronDisableThinking(_Corrected, Nemotron3DisableThinkingRenderer):  # type: ignore[misc]
    """Nemotron 3 Nano and Super without thinking."""


class NemotronUltra(_Corrected, Nemotron3UltraRenderer):  # type: ignore[misc]
    """Nemotron 3 Ultra and 3.5 with thinking."""


class NemotronUltraDisableThinking(
    _Corrected,
    Nemotron3UltraDisableThinkingRenderer,  # type: ignore[misc]
):
    """Nemotron 3 Ultra and 3.5 without thinking."""
