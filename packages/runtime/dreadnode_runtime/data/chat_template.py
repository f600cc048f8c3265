"""The stand-in's own chat template, as a renderer beside tinker-cookbook's.

A rehearsal trains another model than the job names, so it speaks that model's format and says so:
its renderer is registered as `stand-in/chat-template`. Only tinker's types are used here.
"""

import json
from collections.abc import Sequence
from typing import Any

import tinker
import torch
from jinja2 import TemplateError
from tinker_cookbook.exceptions import RendererError
from tinker_cookbook.renderers import (
    Message,
    Renderer,
    ToolCall,
    TrainOnWhat,
    UnparsedToolCall,
    register_renderer,
)
from tinker_cookbook.renderers.base import (
    ParseTermination,
    RenderContext,
    RenderedMessage,
    parse_content_blocks,
    parse_response_for_stop_token,
)

STAND_IN_RENDERER = "stand-in/chat-template"


class ChatTemplateRenderer(Renderer):  # type: ignore[misc]
    """Renders with the `chat_template` that comes with a tokenizer.

    A template writes whole conversations, so single messages are found as what it adds when one
    more message is there. What the template writes after the end-of-turn token is never sampled,
    and so carries no loss. Where the template has no word for tool calls, they are written as text
    between `<tool_call>` tags, and tools into the system message.
    """

    def __init__(self, tokenizer: Any) -> None:
        super().__init__(tokenizer)
        template = tokenizer.chat_template
        if not isinstance(template, str):
            raise RendererError("the tokenizer has no chat template")
        self._knows_tool_calls = "tool_calls" in template

    @property
    def has_extension_property(self) -> bool:
        """Whether the template writes history as it wrote the turn, tried on a short talk."""
        talk: list[Message] = [
            {"role": "user", "content": "a"},
            {"role": "assistant", "content": "b"},
            {"role": "user", "content": "c"},
        ]
        whole = self._text(talk, prompt=True)
        return whole.startswith(self._text(talk[:2])) and whole.startswith(
            self._text(talk[:1], prompt=True)
        )

    def get_stop_sequences(self) -> list[int]:
        """Return the end-of-turn token."""
        return [self.tokenizer.eos_token_id]

    def render_message(self, message: Message, ctx: RenderContext) -> RenderedMessage:
        """Refuse: a chat template writes conversations, not single messages."""
        raise RendererError("a chat template writes conversations, not single messages")

    def parse_response(self, response: list[int]) -> tuple[Message, ParseTermination]:
        """Return RESPONSE up to its end-of-turn token as an assistant message.

        Reasoning and tool calls are found between the tags that they are written in.
        """
        end = self.tokenizer.eos_token_id
        message, termination = parse_response_for_stop_token(response, self.tokenizer, end)
        if termination.is_clean and (found := parse_content_blocks(message["content"])):
            message["content"], calls = found
            if read := [call for call in calls if isinstance(call, ToolCall)]:
                message["tool_calls"] = read
            if unread := [call for call in calls if isinstance(call, UnparsedToolCall)]:
                message["unparsed_tool_calls"] = unread
        return message, termination

    def create_conversation_prefix_with_tools(
        self, tools: Sequence[Any], system_prompt: str = ""
    ) -> list[Message]:
        """Return a system message that lists TOOLS as JSON, one a line, after SYSTEM_PROMPT."""
        lines = "\n".join(json.dumps({"type": "function", "function": tool}) for tool in tools)
        listed = f"Tools you can call:\n{lines}" if lines else ""
        content = "\n\n".join(part for part in (system_prompt, listed) if part)
        return [Message(role="system", content=content)]

    def build_generation_prompt(
        self, messages: list[Message], role: str = "assistant", prefill: str | None = None
    ) -> tinker.ModelInput:
        """Return the tokens that the model continues when it answers MESSAGES."""
        text = self._text(messages, prompt=True) + (prefill or "")
        return tinker.ModelInput.from_ints(self._encode(text))

    def build_supervised_example(
        self,
        messages: list[Message],
        train_on_what: TrainOnWhat = TrainOnWhat.LAST_ASSISTANT_MESSAGE,
    ) -> tuple[tinker.ModelInput, torch.Tensor]:
        """Return the tokens of MESSAGES and a weight for each, 1 where the assistant speaks.

        Raises:
            RendererError: The template refuses the conversation, or writes history unlike turns.
        """
        tokens: list[int] = []
        weights: list[float] = []
        written = ""
        for index in self._trained(messages, train_on_what):
            before = self._text(messages[:index], prompt=True)
            after = self._text(messages[: index + 1])
            if not (before.startswith(written) and after.startswith(before)):
                raise RendererError("the chat template writes history unlike the turn it was")
            spoken, trailing = self._cut(after[len(before) :])
            for text, weight in ((before[len(written) :], 0.0), (spoken, 1.0), (trailing, 0.0)):
                piece = self._encode(text)
                tokens += piece
                weights += [weight] * len(piece)
            written = after
        return tinker.ModelInput.from_ints(tokens), torch.tensor(weights)

    def _trained(self, messages: list[Message], what: TrainOnWhat) -> list[int]:
        speaks = [i for i, m in enumerate(messages) if m["role"] == "assistant"]
        if what == TrainOnWhat.LAST_ASSISTANT_MESSAGE:
            return speaks[-1:]
        if what == TrainOnWhat.ALL_ASSISTANT_MESSAGES:
            return speaks
        if what == TrainOnWhat.CUSTOMIZED:
            return [i for i in speaks if messages[i].get("trainable")]
        raise RendererError(f"{STAND_IN_RENDERER} cannot train on {what.value}")

    def _text(self, messages: list[Message], *, prompt: bool = False) -> str:
        try:
            text = self.tokenizer.apply_chat_template(
                [self._flat(message) for message in messages],
                tokenize=False,
                add_generation_prompt=prompt,
            )
        except TemplateError as error:
            raise RendererError(f"the chat template refuses it: {error}") from error
        return str(text)

    def _flat(self, message: Message) -> dict[str, Any]:
        flat: dict[str, Any] = {"role": message["role"], "content": _flat_text(message["content"])}
        calls = message.get("tool_calls", [])
        if calls and self._knows_tool_calls:
            flat["tool_calls"] = [
                {
                    "type": "function",
                    "id": call.id,
                    "function": {
                        "name": call.function.name,
                        "arguments": json.loads(call.function.arguments),
                    },
                }
                for call in calls
            ]
        elif calls:
            written = [
                f'<tool_call>\n{{"name": {json.dumps(call.function.name)}, '
                f'"arguments": {call.function.arguments}}}\n</tool_call>'
                for call in calls
            ]
            flat["content"] = "\n".join([flat["content"], *written]).lstrip("\n")
        for key in ("tool_call_id", "name"):
            if key in message:
                flat[key] = message[key]
        return flat

    def _cut(self, text: str) -> tuple[str, str]:
        """Split TEXT after its last end-of-turn token."""
        end = self.tokenizer.eos_token
        at = text.rfind(end)
        return (text, "") if at < 0 else (text[: at + len(end)], text[at + len(end) :])

    def _encode(self, text: str) -> list[int]:
        return list(self.tokenizer.encode(text, add_special_tokens=False))


def _flat_text(content: Any) -> str:
    if isinstance(content, str):
        return content
    return "".join(
        f"<think>{part['thinking']}</think>" if part["type"] == "thinking" else part["text"]
        for part in content
    )


register_renderer(STAND_IN_RENDERER, lambda tokenizer, _images: ChatTemplateRenderer(tokenizer))
