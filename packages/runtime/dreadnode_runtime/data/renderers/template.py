"""Writes conversations with the chat template that comes with a tokenizer, as servers do."""

import json
from collections.abc import Mapping
from typing import Any

from jinja2 import TemplateError, UndefinedError
from tinker_cookbook.exceptions import RendererError
from transformers.utils import chat_template_utils

from dreadnode_runtime.data.renderers.chat import Chat


class TemplateWriter:
    """Writes with the `chat_template` of a tokenizer.

    Args:
        tokenizer: Whose template it is.
        settings: The template's arguments besides the conversation, such as `enable_thinking`.
    """

    def __init__(self, tokenizer: Any, settings: Mapping[str, Any] | None = None) -> None:
        template = tokenizer.chat_template
        if not isinstance(template, str):
            raise RendererError("the tokenizer has no chat template")
        # The compiled template of `apply_chat_template`, whose own copies and checks of each
        # conversation take longer than writing it.
        self._template = chat_template_utils._compile_jinja_template(template)
        self._settings = {
            **tokenizer.special_tokens_map,
            **(settings or {}),
        }

    def write(self, chat: Chat, *, prompt: bool) -> str:
        """Return CHAT as text; with PROMPT, up to where the assistant's next message begins.

        Raises:
            RendererError: The template refuses it.
        """
        try:
            return self._text(chat.messages, chat.tools, prompt=prompt)
        except UndefinedError as error:
            described = [_described(tool) for tool in chat.tools]
            if described == chat.tools:
                raise RendererError(f"the chat template refuses it: {error}") from error
            # Some templates take it for granted that every tool has a description.
            return self._text(chat.messages, described, prompt=prompt)
        except TemplateError as error:
            raise RendererError(f"the chat template refuses it: {error}") from error

    def _text(
        self, messages: list[dict[str, Any]], tools: list[dict[str, Any]], *, prompt: bool
    ) -> str:
        return str(
            self._template.render(
                messages=[_with_thinking(message) for message in messages],
                tools=tools or None,
                documents=None,
                add_generation_prompt=prompt,
                **self._settings,
            )
        )


class PlainTemplateWriter:
    """Writes tools, calls and reasoning as text where a chat template has no word for them.

    This is for the stand-in, whose template knows plain messages only: tools are listed in the
    system message, and calls stand between `<tool_call>` tags.
    """

    def __init__(self, tokenizer: Any) -> None:
        self._writer = TemplateWriter(tokenizer)
        self._knows_tool_calls = "tool_calls" in tokenizer.chat_template
        self._knows_tools = "tools" in tokenizer.chat_template
        self._knows_reasoning = "reasoning_content" in tokenizer.chat_template

    def write(self, chat: Chat, *, prompt: bool) -> str:
        """Return CHAT as text; with PROMPT, up to where the assistant's next message begins."""
        messages = [self._flat(message) for message in chat.messages]
        tools = chat.tools
        if tools and not self._knows_tools:
            listed = "\n".join(json.dumps(tool, ensure_ascii=False) for tool in tools)
            system = messages[0]["content"] if messages and messages[0]["role"] == "system" else ""
            rest = messages[1:] if system else messages
            content = "\n\n".join(filter(None, (system, f"Tools you can call:\n{listed}")))
            messages, tools = [{"role": "system", "content": content}, *rest], []
        return self._writer.write(Chat(messages, tools), prompt=prompt)

    def _flat(self, message: dict[str, Any]) -> dict[str, Any]:
        flat = dict(message)
        if not self._knows_reasoning and (reasoning := flat.pop("reasoning_content", None)):
            flat["content"] = f"<think>{reasoning}</think>{flat['content']}"
        if not self._knows_tool_calls and (calls := flat.pop("tool_calls", None)):
            written = [
                f"<tool_call>\n{json.dumps(call['function'], ensure_ascii=False)}\n</tool_call>"
                for call in calls
            ]
            flat["content"] = "\n".join(filter(None, [flat["content"], *written]))
        return flat


def _with_thinking(message: dict[str, Any]) -> dict[str, Any]:
    """Return MESSAGE with its reasoning under both names that templates read."""
    if "reasoning_content" not in message:
        return message
    return {"thinking": message["reasoning_content"], **message}


def _described(tool: dict[str, Any]) -> dict[str, Any]:
    return {**tool, "function": {"description": "", **tool["function"]}}
