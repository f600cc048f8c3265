"""A conversation with a job's weights, as it crosses the wire."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from dreadnode.training.checkpoints import OfWeights
from dreadnode.wire import Request, Response


class ChatMessage(Request):
    """A message of a conversation."""

    role: Literal["system", "user", "assistant"]
    content: str


class ChatRequest(Request):
    """A conversation, whose next message the model is to give.

    Attributes:
        checkpoint: Name or path of the weights; the newest if left out.
        max_tokens: Tokens of the answer.
        temperature: 0 always takes the likeliest token.
        seed: Random seed of sampling; random if left out.
        stream: Whether the answer is sent while it is sampled; the client's methods set it.
    """

    messages: list[ChatMessage]
    checkpoint: str | None = None
    max_tokens: int = 512
    temperature: float = 0.7
    top_p: float = 1.0
    seed: int | None = None
    stop: list[str] = Field(default_factory=list)
    stream: bool = False


class ChatReply(Response):
    """The completion of a chat.

    Attributes:
        reasoning: What it thought before, where its format shows that.
    """

    role: str
    content: str
    reasoning: str | None = None
    tool_calls: list[dict[str, Any]] = Field(default_factory=list)


class ChatUsage(Response):
    """What the engine worked on."""

    prompt_tokens: int
    sampled_tokens: int


class ChatAnswer(OfWeights):
    """An answer, and whose it is.

    Attributes:
        finish_reason: `stop`, or `length` where the limit cut it off.
        renderer: Name of the chat format.
        format_notes: Why another format than the model's default is used, if one is.
    """

    message: ChatReply
    finish_reason: str
    usage: ChatUsage
    renderer: str | None = None
    format_notes: list[str] = Field(default_factory=list)


class ChatLine(Response):
    """A line of a streamed answer, with one or two of these fields.

    Attributes:
        weights: Whose answer follows; the first line.
        reasoning: The next part of the reasoning.
        content: The next part of the message.
        answer: The whole answer; the last line.
        error: The error response that takes the place of the whole answer; the last line.
    """

    weights: OfWeights | None = None
    reasoning: str | None = None
    content: str | None = None
    answer: ChatAnswer | None = None
    error: dict[str, Any] | None = None
