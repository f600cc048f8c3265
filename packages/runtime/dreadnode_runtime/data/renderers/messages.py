"""The messages that tinker-cookbook's renderers read out of tokens."""

from typing import Any

from tinker_cookbook.renderers import Message, get_text_content


def text_of(message: Message) -> str:
    """Return what MESSAGE says, its reasoning and its tool calls left out."""
    return str(get_text_content(message))


def plain_message(message: Message) -> dict[str, Any]:
    """Return a renderer's MESSAGE in the form that `data` reads out of rows."""
    plainly: dict[str, Any] = {"role": message["role"], "content": message["content"]}
    if calls := message.get("tool_calls"):
        plainly["tool_calls"] = [
            {"id": call.id, "name": call.function.name, "arguments": call.function.arguments}
            for call in calls
        ]
    return plainly
