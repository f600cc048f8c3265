"""Qwen3's renderers, corrected to what Qwen3's chat template writes.

Tinker-cookbook's write each tool result as a user turn of its own, escape letters that are not
ASCII in calls and tools, drop reasoning inside a tool loop, write a third line break between
reasoning and a call, and read `</think>` in an answer's text as the end of reasoning.
"""

import json
from collections.abc import Sequence
from typing import Any

import tinker
from tinker_cookbook.renderers import Message, Renderer, ToolCall, ToolSpec
from tinker_cookbook.renderers.base import RenderContext, RenderedMessage
from tinker_cookbook.renderers.qwen3 import (
    Qwen3DisableThinkingRenderer,
    Qwen3InstructRenderer,
    Qwen3Renderer,
)

from dreadnode_runtime.data.renderers.chat import content_and_reasoning


def as_json(value: Any) -> str:
    """Return VALUE as JSON as chat templates write it, letters unescaped."""
    return json.dumps(value, ensure_ascii=False)


def rendered(renderer: Renderer, header: str, output: str) -> RenderedMessage:
    """Return a message that is introduced by HEADER and says OUTPUT."""

    def chunk(text: str) -> tinker.EncodedTextChunk:
        return tinker.EncodedTextChunk(
            tokens=renderer.tokenizer.encode(text, add_special_tokens=False)
        )

    return RenderedMessage(header=chunk(header), output=[chunk(output)] if output else [])


def tool_response(message: Message, ctx: RenderContext) -> tuple[str, str]:
    """Return the header and the rest of a tool result; results in a row share one user turn."""
    before = ctx.prev_message is not None and ctx.prev_message["role"] == "tool"
    after = ctx.next_message is not None and ctx.next_message["role"] == "tool"
    opening = "" if before else ("\n" if ctx.idx else "") + "<|im_start|>user"
    closing = "" if after else "<|im_end|>"
    content, _ = content_and_reasoning(message["content"])
    return opening, f"\n<tool_response>\n{content}\n</tool_response>{closing}"


class _Corrected(Qwen3Renderer):  # type: ignore[misc]
    def render_message(self, message: Message, ctx: RenderContext) -> RenderedMessage:
        """Write one message as Qwen3's chat template does."""
        if message["role"] == "tool":
            return rendered(self, *tool_response(message, ctx))
        header = ("\n" if ctx.idx else "") + f"<|im_start|>{message['role']}\n"
        text, reasoning = content_and_reasoning(message["content"])
        output = text
        produced = 0 <= ctx.last_user_index < ctx.idx
        thinks = self.frames_thinking and message["role"] == "assistant" and produced
        if thinks and (ctx.is_last or reasoning):
            thought = reasoning.strip("\n")
            output = f"<think>\n{thought}\n</think>\n\n" + text.lstrip("\n")
        calls = "\n".join(_call(call) for call in message.get("tool_calls", ()))
        output += ("\n" if text and calls else "") + calls
        return rendered(self, header, output + "<|im_end|>")

    def create_conversation_prefix_with_tools(
        self, tools: Sequence[ToolSpec], system_prompt: str = ""
    ) -> list[Message]:
        """Return a system message that declares TOOLS as the rows give them."""
        marker = "tools_go_here"
        (declared,) = super().create_conversation_prefix_with_tools(
            [ToolSpec(name=marker, description="", parameters={})], system_prompt
        )
        text = str(declared["content"])
        line = next(line for line in text.splitlines() if marker in line)
        lines = "\n".join(as_json({"type": "function", "function": tool}) for tool in tools)
        return [Message(role="system", content=text.replace(line, lines))]


def _call(call: ToolCall) -> str:
    name, arguments = call.function.name, as_json(json.loads(call.function.arguments))
    return f'<tool_call>\n{{"name": "{name}", "arguments": {arguments}}}\n</tool_call>'


class Qwen3(_Corrected):
    """Qwen3 with thinking."""


class Qwen3DisableThinking(_Corrected, Qwen3DisableThinkingRenderer):  # type: ignore[misc]
    """Qwen3 without thinking."""


class Qwen3Instruct(_Corrected, Qwen3InstructRenderer):  # type: ignore[misc]
    """Qwen3 Instruct 2507, whose format has no reasoning."""
