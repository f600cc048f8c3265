"""The message of a completion, with its text, its reasoning and its tool calls apart."""

from typing import Any

from dreadnode_runtime.data.completions import Reply
from dreadnode_runtime.data.reasoning import OPEN
from dreadnode_runtime.data.renderers.messages import plain_message, text_of


def message_of(reply: Reply) -> dict[str, Any]:
    """Return the message of REPLY: `role`, `content`, `reasoning` and `tool_calls`."""
    message = reply.message
    content = message["content"]
    parts = [] if isinstance(content, str) else content
    thoughts = [part["thinking"] for part in parts if part["type"] == "thinking"]
    if reply.answer is None:
        # The reasoning never ended, so a format that closes it reads it as text.
        thoughts.append(text_of(message).lstrip().removeprefix(OPEN))
    return {
        "role": "assistant",
        "content": reply.answer or "",
        "reasoning": "\n".join(thoughts).strip() or None,
        "tool_calls": plain_message(message).get("tool_calls", []),
    }
