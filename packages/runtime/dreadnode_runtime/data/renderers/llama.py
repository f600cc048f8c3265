"""Llama 3's renderer, with the tool calls that tinker-cookbook's leaves out.

As in the chat template of Llama 3.1, tools stand in the first user message, a call is a JSON object
with `name` and `parameters`, and a result comes from `ipython`.
"""

import json
from typing import Any

from tinker_cookbook.exceptions import RendererError
from tinker_cookbook.renderers import Message, ToolCall
from tinker_cookbook.renderers.base import ParseTermination, RenderContext, RenderedMessage
from tinker_cookbook.renderers.llama3 import Llama3Renderer

from dreadnode_runtime.data.renderers.chat import content_and_reasoning
from dreadnode_runtime.data.renderers.qwen3 import as_json

DECLARATION = (
    "Given the following functions, please respond with a JSON for a function call with its proper "
    "arguments that best answers the given prompt.\n\nRespond in the format "
    '{"name": function name, "parameters": dictionary of argument name and its value}.'
    "Do not use variables.\n\n"
)


class Llama3(Llama3Renderer):  # type: ignore[misc]
    """Llama 3 with tool calls."""

    def arrange(self, messages: list[Message], tools: list[dict[str, Any]]) -> list[Message]:
        """Return MESSAGES with TOOLS declared in the first user message."""
        if not tools:
            return messages
        listed = "".join(json.dumps(t, indent=4, ensure_ascii=False) + "\n\n" for t in tools)
        at = next((i for i, m in enumerate(messages) if m["role"] == "user"), None)
        if at is None:
            raise RendererError("tools are declared in a user message, and there is none")
        text, _ = content_and_reasoning(messages[at]["content"])
        first = Message(role="user", content=DECLARATION + listed + text.strip())
        return [*messages[:at], first, *messages[at + 1 :]]

    def render_message(self, message: Message, ctx: RenderContext) -> RenderedMessage:
        """Write one message as the chat template does."""
        text, reasoning = content_and_reasoning(message["content"])
        if reasoning and ctx.is_last:
            raise RendererError("the format has no reasoning")
        text = text.strip()
        role = message["role"]
        if role == "tool":
            role, text = "ipython", as_json(text)
        elif calls := message.get("tool_calls"):
            if len(calls) > 1 or text:
                raise RendererError("the format has one tool call in a message, without text")
            name, arguments = calls[0].function.name, json.loads(calls[0].function.arguments)
            text = f'{{"name": "{name}", "parameters": {as_json(arguments)}}}'
        made: RenderedMessage = super().render_message(Message(role=role, content=text), ctx)
        return made

    def parse_response(self, response: list[int]) -> tuple[Message, ParseTermination]:
        """Return the message that RESPONSE says: a call where it is a JSON object of that form."""
        message, termination = super().parse_response(response)
        if not termination.is_clean:
            return message, termination
        try:
            call = json.loads(str(message["content"]))
        except ValueError:
            return message, termination
        if (
            isinstance(call, dict)
            and set(call) == {"name", "parameters"}
            and isinstance(call["name"], str)
            and isinstance(call["parameters"], dict)
        ):
            body = ToolCall.FunctionBody(name=call["name"], arguments=as_json(call["parameters"]))
            message["tool_calls"] = [ToolCall(function=body)]
            message["content"] = ""
        return message, termination
