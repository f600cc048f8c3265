"""The requests of Anthropic's clients: fields that this server has, and those that it refuses."""

from typing import Any, Self

from pydantic import Field, model_validator

from dreadnode_api.http.schemas import Request
from dreadnode_api.serving.openai_schemas import Limit, ModelName, Stop
from dreadnode_api.serving.requests import refuse_unless

Blocks = list[dict[str, Any]]


class Conversation(Request):
    """A conversation with its tools."""

    model: ModelName
    messages: list[dict[str, Any]] = Field(min_length=1, max_length=1000)
    system: str | Blocks | None = None
    tools: Blocks | None = Field(None, max_length=128)
    tool_choice: dict[str, Any] | None = None
    thinking: dict[str, Any] | None = None

    @model_validator(mode="after")
    def _supported(self) -> Self:
        choice = (self.tool_choice or {}).get("type")
        refuse_unless(
            choice,
            ("auto", "none"),
            "tool_choice",
            "`tool_choice` can be `auto` or `none`; a tool call cannot be forced here",
        )
        refuse_unless(
            (self.thinking or {}).get("type"),
            ("disabled",),
            "thinking",
            "`thinking` cannot be set here: the chat format of the model decides; leave it out",
        )
        if self.messages[-1].get("role") == "assistant":
            raise ValueError("the last message must not be the assistant's: the model adds it")
        return self

    @property
    def declared_tools(self) -> Blocks | None:
        """The tools that the model may call."""
        return None if (self.tool_choice or {}).get("type") == "none" else self.tools


class MessageRequest(Conversation):
    """A conversation that the model continues."""

    max_tokens: Limit
    temperature: float | None = Field(None, ge=0, le=10)
    top_p: float | None = Field(None, gt=0, le=1)
    top_k: int | None = None
    stop_sequences: list[Stop] | None = Field(None, max_length=16)
    stream: bool | None = False
    metadata: dict[str, Any] | None = None
    service_tier: str | None = None

    @model_validator(mode="after")
    def _sampling(self) -> Self:
        refuse_unless(self.top_k, (), "top_k")
        return self
