"""The normal form of a row: the one kind of conversation that every dialect is read into.

Renderers, rewards and the chat see this form only. Nothing here knows a dialect or a tokenizer.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, Required, TypedDict, cast

Row = Mapping[str, Any]
Role = Literal["system", "user", "assistant", "tool"]


class TextPart(TypedDict):
    """Text of a message."""

    type: Literal["text"]
    text: str


class ThinkingPart(TypedDict):
    """Reasoning of the assistant; never blank."""

    type: Literal["thinking"]
    thinking: str


class ImagePart(TypedDict):
    """An image, as a `data:` URL with base64 content."""

    type: Literal["image"]
    image: str


Part = TextPart | ThinkingPart | ImagePart
Content = str | list[Part]


class ToolCall(TypedDict):
    """A call of a tool.

    `arguments` is the text of a JSON object: the row's own text where the row gives text.
    """

    id: str | None
    name: str
    arguments: str


class Message(TypedDict, total=False):
    """One message.

    Keys:
        role: The author; `developer` is read as system.
        content: A string, or parts where there are reasoning or images. Adjacent text is one part.
        tool_calls: Calls of the assistant, in order; absent where there are none.
        tool_call_id: Which call a tool message answers, where the call has an id.
        name: The function that a tool message answers, where the row or its call names one.
    """

    role: Required[Role]
    content: Required[Content]
    tool_calls: list[ToolCall]
    tool_call_id: str
    name: str


Tool = dict[str, Any]
"""A function as the row declares it, without OpenAI's wrapper: `name`, and what else is given."""


class Unusable(Exception):
    """A row that cannot be trained on; the text is the reason it is counted under."""


@dataclass(frozen=True, slots=True)
class Conversation:
    """What one row says.

    Attributes:
        messages: In order; consecutive system messages at the start are joined into one.
        tools: What the assistant can call.
        chosen: Indices of the assistant messages that the row itself marks for training; None
            when it leaves that to the job's `train_on`.
        weight: What the row's loss counts, 1 unless the row says otherwise.
        unread: Names of the row's fields that no reader took, such as `messages.timestamp`.
        notes: What the reader changed or doubts, one phrase each.
    """

    messages: list[Message]
    tools: list[Tool] = field(default_factory=list)
    chosen: frozenset[int] | None = None
    weight: float = 1.0
    unread: Sequence[str] = ()
    notes: Sequence[str] = ()


def with_system_prompt(conversation: Conversation, prompt: str | None) -> Conversation:
    """Return CONVERSATION with PROMPT in front: before its own system message, or as one."""
    if not prompt:
        return conversation
    first = conversation.messages[0]
    if first["role"] == "system":
        joined = cast(
            "Message", {**first, "content": f"{prompt}\n\n{content_text(first['content'])}"}
        )
        return replace(conversation, messages=[joined, *conversation.messages[1:]])
    chosen = conversation.chosen
    if chosen is not None:
        chosen = frozenset(index + 1 for index in chosen)
    system: Message = {"role": "system", "content": prompt}
    return replace(conversation, messages=[system, *conversation.messages], chosen=chosen)


def content_text(content: Content) -> str:
    """Return the text of a message's CONTENT, without reasoning and images."""
    if isinstance(content, str):
        return content
    return "".join(part["text"] for part in content if part["type"] == "text")


def has_images(conversation: Conversation) -> bool:
    """Return whether a message of CONVERSATION has an image."""
    return any(
        part["type"] == "image"
        for message in conversation.messages
        if not isinstance(message["content"], str)
        for part in message["content"]
    )


def scalar_text(value: Any) -> str:
    """Return text as it is, and a number or boolean as JSON writes it: 0 is an answer.

    Raises:
        Unusable: VALUE is something else.
    """
    if isinstance(value, str):
        return value
    if isinstance(value, int | float):
        return json.dumps(value)
    raise Unusable("its prompt or answer is not text")


_SHOWN = str.maketrans("[]`", "()'")


def shown(value: Any) -> str:
    """Return VALUE as a refusal shows it: printable, short and between backticks."""
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
    # Square brackets are markup to clients in the field.
    text = "".join(c if c.isprintable() else " " for c in text[:60]).translate(_SHOWN)
    return f"`{text}`" if len(text) < 60 else f"`{text[:57]}...`"
