"""Reads the completions of the stand-in, whose own chat template writes its conversations.

A rehearsal trains another model than the job names, so it uses that model's format and says so:
its format is called `stand-in/chat-template`.
"""

from typing import Any

from tinker_cookbook.exceptions import RendererError
from tinker_cookbook.renderers import Message, Renderer, ToolCall, UnparsedToolCall
from tinker_cookbook.renderers.base import (
    ParseTermination,
    RenderContext,
    RenderedMessage,
    parse_content_blocks,
    parse_response_for_stop_token,
)

STAND_IN_RENDERER = "stand-in/chat-template"


class StandInReader(Renderer):  # type: ignore[misc]
    """Reads reasoning and tool calls between the tags that `PlainTemplateWriter` writes."""

    def __init__(self, tokenizer: Any) -> None:
        super().__init__(tokenizer)
        if not isinstance(tokenizer.chat_template, str):
            raise RendererError("the tokenizer has no chat template")

    def get_stop_sequences(self) -> list[int]:
        """Return the end-of-turn token."""
        return [self.tokenizer.eos_token_id]

    def render_message(self, message: Message, ctx: RenderContext) -> RenderedMessage:
        """Refuse: a chat template writes conversations, not single messages."""
        raise RendererError("a chat template writes conversations, not single messages")

    def parse_response(self, response: list[int]) -> tuple[Message, ParseTermination]:
        """Return RESPONSE up to its end-of-turn token as an assistant message."""
        end = self.tokenizer.eos_token_id
        message, termination = parse_response_for_stop_token(response, self.tokenizer, end)
        if termination.is_clean and (found := parse_content_blocks(message["content"])):
            message["content"], calls = found
            if read := [call for call in calls if isinstance(call, ToolCall)]:
                message["tool_calls"] = read
            if unread := [call for call in calls if isinstance(call, UnparsedToolCall)]:
                message["unparsed_tool_calls"] = unread
        return message, termination
