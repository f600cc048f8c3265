"""DeepSeek V3.1's renderers, corrected.

Tinker-cookbook's write no end-of-turn token behind a call without text, escape letters that are not
ASCII in tool declarations, and cut everything between think tags out of an answer's text.
"""

import json
from collections.abc import Sequence
from typing import Any

import tinker
from tinker_cookbook.renderers import Message, ToolSpec
from tinker_cookbook.renderers.base import RenderContext, RenderedMessage
from tinker_cookbook.renderers.deepseek_v3 import (
    DeepSeekV3DisableThinkingRenderer,
    DeepSeekV3ThinkingRenderer,
)

from dreadnode_runtime.data.renderers.qwen3 import as_json


class _Corrected:
    def render_message(self, message: Message, ctx: RenderContext) -> RenderedMessage:
        """Write one message, with an end-of-turn token behind a call without text."""
        made: RenderedMessage = super().render_message(message, ctx)  # type: ignore[misc]
        if message["role"] == "assistant" and message.get("tool_calls"):
            end = self._end_message_token  # type: ignore[attr-defined]
            *before, last = made.output
            if list(last.tokens)[-1:] != [end]:
                last = tinker.EncodedTextChunk(tokens=[*last.tokens, end])
            return RenderedMessage(header=made.header, output=[*before, last])
        return made

    def create_conversation_prefix_with_tools(
        self, tools: Sequence[ToolSpec], system_prompt: str = ""
    ) -> list[Message]:
        """Return a system message that declares TOOLS, letters unescaped."""
        whole: list[dict[str, Any]] = [
            {**tool, "description": tool.get("description", ""), "parameters": f"parameters {i}"}
            for i, tool in enumerate(tools)
        ]
        (declared,) = super().create_conversation_prefix_with_tools(  # type: ignore[misc]
            whole, system_prompt
        )
        text = str(declared["content"])
        for index, tool in enumerate(tools):
            written = as_json(tool.get("parameters", {}))
            text = text.replace(json.dumps(f"parameters {index}"), written, 1)
        return [Message(role="system", content=text)]


class DeepSeekV3(_Corrected, DeepSeekV3DisableThinkingRenderer):  # type: ignore[misc]
    """DeepSeek V3.1 without thinking."""


class DeepSeekV3Thinking(_Corrected, DeepSeekV3ThinkingRenderer):  # type: ignore[misc]
    """DeepSeek V3.1 with thinking."""
