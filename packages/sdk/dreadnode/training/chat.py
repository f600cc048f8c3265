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
    """

    messages: list[ChatMessage]
    checkpoint: str | None = None
    max_tokens: int = 512
    temperature: float = 0.7
    top_p: float = 1.0
    seed: int | None = None
    stop: list[str] = Field(default_factory=list)


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
