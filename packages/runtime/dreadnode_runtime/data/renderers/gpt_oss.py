"""gpt-oss's renderer, corrected to what the published chat template writes.

Tinker-cookbook's keeps reasoning in the history, names results `functions.unknown` where the row
gives no name, writes results unquoted and calls with `<|constrain|>`, leaves out the system message
that servers send, and reads a call without text as text too.
"""

import json
from collections.abc import Sequence
from datetime import datetime
from typing import Any

from tinker_cookbook.exceptions import RendererError
from tinker_cookbook.renderers import Message, ToolCall
from tinker_cookbook.renderers.base import ParseTermination, RenderContext, RenderedMessage
from tinker_cookbook.renderers.gpt_oss import GptOssRenderer, _format_tool_definition

from dreadnode_runtime.data.renderers.chat import content_and_reasoning, without_booleans
from dreadnode_runtime.data.renderers.qwen3 import as_json, rendered

TOOLS_NEED_A_CHANNEL = "\nCalls to these tools must go to the commentary channel: 'functions'."


class GptOss(GptOssRenderer):  # type: ignore[misc]
    """gpt-oss with medium reasoning effort, the chat template's default."""

    def __init__(self, tokenizer: Any) -> None:
        super().__init__(tokenizer, use_system_prompt=True, reasoning_effort="medium")

    def arrange(self, messages: list[Message], tools: list[dict[str, Any]]) -> list[Message]:
        """Return MESSAGES after the system message and what the developer says, with TOOLS."""
        system = self.system_prompt_content.format(
            current_date=datetime.now().strftime("%Y-%m-%d"),
            reasoning_effort=self.reasoning_effort,
        )
        first = Message(role=self._INTERNAL_SYSTEM_ROLE, content=system)
        instructions, rest = "", messages
        if messages and messages[0]["role"] == "system":
            instructions, rest = f"# Instructions\n\n{messages[0]['content']}\n\n", messages[1:]
        if tools:
            first["content"] += TOOLS_NEED_A_CHANNEL
            types = "\n\n".join(_declared(without_booleans(tool["function"])) for tool in tools)
            instructions += f"# Tools\n\n## functions\n\nnamespace functions {{\n\n{types}\n\n"
            instructions += "} // namespace functions"
        developer = [Message(role="developer", content=instructions)] if instructions else []
        return [first, *developer, *_without_answered_thoughts(rest)]

    def _get_system_message(self) -> Message | None:
        """Return None: `arrange` has written it."""
        return None

    def _warn_if_user_system_message(self, messages: list[Message]) -> None:
        """Nothing: `arrange` has made one of the two."""

    def render_message(self, message: Message, ctx: RenderContext) -> RenderedMessage:
        """Write one message as the chat template does."""
        text, reasoning = content_and_reasoning(message["content"])
        if message["role"] == "tool":
            if not message.get("name"):
                raise RendererError("a tool result answers no tool call before it")
            header = f"<|start|>functions.{message['name']} to=assistant"
            output = f"<|channel|>commentary<|message|>{as_json(text)}<|end|>"
        elif message["role"] == "assistant":
            header = "<|start|>assistant"
            output = self._said(message, text, reasoning, ctx)
        else:
            found: RenderedMessage = super().render_message(message, ctx)
            return found
        return rendered(self, header, output)

    def _said(self, message: Message, text: str, reasoning: str, ctx: RenderContext) -> str:
        calls: Sequence[ToolCall] = message.get("tool_calls") or ()
        analysis = "<|channel|>analysis<|message|>{}<|end|><|start|>assistant"
        if not calls:
            thought = analysis.format(reasoning) if reasoning and ctx.is_last else ""
            end = "<|return|>" if ctx.is_last else "<|end|>"
            return f"{thought}<|channel|>final<|message|>{text}{end}"
        thoughts = "".join(analysis.format(each) for each in (reasoning, text) if each)
        (call,) = calls
        arguments = as_json(json.loads(call.function.arguments))
        to = f" to=functions.{call.function.name}<|channel|>commentary json<|message|>"
        return f"{thoughts}{to}{arguments}<|call|>"

    def parse_response(self, response: list[int]) -> tuple[Message, ParseTermination]:
        """Return the message that RESPONSE says; a call without text has no text."""
        message, termination = super().parse_response(response)
        called = message.get("tool_calls") or message.get("unparsed_tool_calls")
        if called and isinstance(message["content"], str):
            message["content"] = ""
        return message, termination


def _declared(function: dict[str, Any]) -> str:
    text = _format_tool_definition({"parameters": {}, **function})
    described = text if function.get("description") else f"// \n{text}"
    return str(described).replace("(_:\n{", "(_: {")


def _without_answered_thoughts(messages: list[Message]) -> list[Message]:
    """Return MESSAGES without the reasoning before calls whose turn a final answer has ended."""
    last = max(
        (i for i, m in enumerate(messages) if m["role"] == "assistant" and not m.get("tool_calls")),
        default=-1,
    )
    kept = []
    for index, message in enumerate(messages):
        if message["role"] == "assistant" and message.get("tool_calls") and index < last:
            message = Message(**{**message, "content": ""})
        kept.append(message)
    return kept
