"""Kimi K2.6's renderers, corrected.

Tinker-cookbook's write a row's own call id where the function's name belongs, so that the name is
nowhere, and fail on a property whose schema is `true`.
"""

from typing import Any, cast

from tinker_cookbook.exceptions import RendererError
from tinker_cookbook.renderers import Message, ToolCall, ToolSpec
from tinker_cookbook.renderers.kimi_k25 import KimiK25DisableThinkingRenderer, KimiK25Renderer

from dreadnode_runtime.data.renderers.chat import without_booleans


class _Corrected:
    def arrange(self, messages: list[Message], tools: list[dict[str, Any]]) -> list[Message]:
        """Return MESSAGES with ids as Kimi writes them, `functions.NAME:N`, and TOOLS declared."""
        numbered = _numbered(messages)
        if not tools:
            return numbered
        system, rest = "", numbered
        if numbered and numbered[0]["role"] == "system":
            system, rest = str(numbered[0]["content"]), numbered[1:]
        specs = [cast("ToolSpec", without_booleans(tool["function"])) for tool in tools]
        prefix = self.create_conversation_prefix_with_tools(  # type: ignore[attr-defined]
            specs, system
        )
        return [*prefix, *rest]


def _numbered(messages: list[Message]) -> list[Message]:
    """Return MESSAGES with calls numbered over the whole conversation, and results to match."""
    count = 0
    open_calls: list[tuple[str | None, str]] = []
    made = []
    for message in messages:
        message = Message(**message)
        if calls := message.get("tool_calls"):
            new = [f"functions.{c.function.name}:{count + n}" for n, c in enumerate(calls)]
            count += len(calls)
            open_calls = list(zip([call.id for call in calls], new, strict=True))
            message["tool_calls"] = [
                ToolCall(id=each, function=call.function)
                for call, each in zip(calls, new, strict=True)
            ]
        elif message["role"] == "tool" and open_calls:
            call_id = message.get("tool_call_id")
            found = next((pair for pair in open_calls if pair[0] == call_id), open_calls[0])
            message["tool_call_id"] = found[1]
            if len(open_calls) > 1:
                open_calls.remove(found)
        elif message["role"] == "tool":
            raise RendererError("a tool result answers no tool call before it")
        made.append(message)
    return made


class KimiK26(_Corrected, KimiK25Renderer):  # type: ignore[misc]
    """Kimi K2.6 with thinking."""


class KimiK26DisableThinking(_Corrected, KimiK25DisableThinkingRenderer):  # type: ignore[misc]
    """Kimi K2.6 without thinking."""
