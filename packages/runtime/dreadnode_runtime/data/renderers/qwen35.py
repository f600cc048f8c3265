"""The renderers of Qwen3.5, 3.6 and 3.8, corrected to what their chat templates write.

Tinker-cookbook's declare tools without `{"type": "function", ...}`, escape letters that are not
ASCII, drop reasoning inside a tool loop, write Python's `False` for `false` in Qwen3.6's calls, and
write conversations that the templates refuse.
"""

import json
from collections.abc import Sequence
from typing import Any

from tinker_cookbook.exceptions import RendererError
from tinker_cookbook.renderers import Message, ToolSpec
from tinker_cookbook.renderers.base import RenderContext, RenderedMessage
from tinker_cookbook.renderers.qwen3_5 import Qwen3_5DisableThinkingRenderer, Qwen3_5Renderer
from tinker_cookbook.renderers.qwen3_8 import Qwen3_8DisableThinkingRenderer, Qwen3_8Renderer

from dreadnode_runtime.data.renderers.qwen3 import as_json


class _Corrected(Qwen3_5Renderer):  # type: ignore[misc]
    def render_message(self, message: Message, ctx: RenderContext) -> RenderedMessage:
        """Write one message; refuse those that the chat template refuses."""
        if message["role"] == "system" and ctx.idx:
            raise RendererError("a system message must come first")
        if ctx.last_user_index < 0:
            raise RendererError("the conversation has no user message")
        rendered: RenderedMessage = super().render_message(message, ctx)
        return rendered

    def _strips_thinking_for(self, message: Message, ctx: RenderContext) -> bool:
        """Drop the reasoning of earlier turns, and keep that of the turn that continues."""
        return bool(
            self.strip_thinking_from_history
            and message["role"] == "assistant"
            and ctx.idx <= ctx.last_user_index
        )

    def _format_thinking_text(self, thinking: str) -> str:
        return f"<think>\n{thinking.strip()}\n</think>\n\n"

    def _format_tool_call_argument(self, value: Any) -> str:
        return as_json(value) if isinstance(value, dict | list) else str(value)

    def create_conversation_prefix_with_tools(
        self, tools: Sequence[ToolSpec], system_prompt: str = ""
    ) -> list[Message]:
        """Return a system message that declares TOOLS as the rows give them."""
        marker = {"name": "tools_go_here"}
        (declared,) = super().create_conversation_prefix_with_tools([marker], system_prompt.strip())
        lines = "\n".join(as_json({"type": "function", "function": tool}) for tool in tools)
        text = str(declared["content"]).replace(json.dumps(marker), lines, 1)
        return [Message(role="system", content=text)]


class _Json(_Corrected):
    def _format_tool_call_argument(self, value: Any) -> str:
        return value if isinstance(value, str) else as_json(value)


class Qwen35(_Corrected):
    """Qwen3.5 with thinking."""


class Qwen35DisableThinking(_Corrected, Qwen3_5DisableThinkingRenderer):  # type: ignore[misc]
    """Qwen3.5 without thinking."""


class Qwen36(_Json):
    """Qwen3.6 with thinking."""


class Qwen36DisableThinking(_Json, Qwen3_5DisableThinkingRenderer):  # type: ignore[misc]
    """Qwen3.6 without thinking."""


class _EffortFirst(_Json, Qwen3_8Renderer):  # type: ignore[misc]
    def create_conversation_prefix_with_tools(
        self, tools: Sequence[ToolSpec], system_prompt: str = ""
    ) -> list[Message]:
        """Return a system message that declares TOOLS after the sentence about effort."""
        (declared,) = super().create_conversation_prefix_with_tools(tools, system_prompt)
        normalized: list[Message] = self._normalize_messages([declared])
        return normalized


class Qwen38(_EffortFirst):
    """Qwen3.8 with thinking."""


class Qwen38DisableThinking(_EffortFirst, Qwen3_8DisableThinkingRenderer):  # type: ignore[misc]
    """Qwen3.8 without thinking."""
