"""The requests of OpenAI's clients: fields that this server has, and those that it refuses."""

from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from dreadnode_api.http.schemas import Request
from dreadnode_api.serving.requests import MAX_COMPLETIONS, MAX_TOKENS, refuse_unless

Stop = Annotated[str, Field(min_length=1, max_length=200)]
Limit = Annotated[int, Field(ge=1, le=MAX_TOKENS)]
ModelName = Annotated[
    str,
    Field(
        min_length=1,
        max_length=700,
        description="A base model, the id or name of a job, `JOB@best`, `JOB@step-000100`, or a "
        "`tinker://` path",
    ),
]


class StreamOptions(Request):
    """Options of a stream."""

    include_usage: bool = Field(False, description="Send the usage before the end")
    include_obfuscation: bool | None = None


class Sampling(Request):
    """Fields that chats and completions share."""

    model: ModelName
    n: int | None = Field(None, ge=1, le=MAX_COMPLETIONS, description="Number of completions")
    temperature: float | None = Field(None, ge=0, le=10)
    top_p: float | None = Field(None, gt=0, le=1)
    seed: int | None = Field(None, ge=0, lt=2**53)
    stop: Stop | list[Stop] | None = Field(None, max_length=200)
    stream: bool | None = False
    stream_options: StreamOptions | None = None
    # Fields without an effect on what is sampled.
    user: str | None = None
    metadata: dict[str, str] | None = None
    store: bool | None = None
    service_tier: str | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None
    # Fields whose effect this server does not have.
    frequency_penalty: float | None = None
    presence_penalty: float | None = None
    logit_bias: dict[str, float] | None = None

    @model_validator(mode="after")
    def _supported(self) -> Self:
        refuse_unless(self.frequency_penalty, (0,), "frequency_penalty")
        refuse_unless(self.presence_penalty, (0,), "presence_penalty")
        refuse_unless(self.logit_bias, ({},), "logit_bias")
        refuse_unless(self.store, (False,), "store")
        if isinstance(self.stop, list) and len(self.stop) > 16:
            raise ValueError("`stop` may have at most 16 strings")
        return self

    @property
    def stops(self) -> list[str]:
        """The stop strings."""
        return [self.stop] if isinstance(self.stop, str) else list(self.stop or ())


class ChatCompletionRequest(Sampling):
    """A conversation that the model continues."""

    messages: list[dict[str, Any]] = Field(min_length=1, max_length=1000)
    max_tokens: Limit | None = None
    max_completion_tokens: Limit | None = None
    logprobs: bool | None = None
    top_logprobs: int | None = Field(None, ge=0, le=20)
    tools: list[dict[str, Any]] | None = Field(None, max_length=128)
    tool_choice: Literal["auto", "none", "required"] | dict[str, Any] | None = None
    parallel_tool_calls: bool | None = None
    response_format: dict[str, Any] | None = None

    @model_validator(mode="after")
    def _chat(self) -> Self:
        format_ = self.response_format
        refuse_unless(
            format_ and format_.get("type"),
            ("text",),
            "response_format",
            "`response_format` is not enforced here; leave it out, and ask for JSON in the prompt",
        )
        refuse_unless(
            self.tool_choice,
            ("auto", "none"),
            "tool_choice",
            "`tool_choice` can be `auto` or `none`; a tool call cannot be forced here",
        )
        if self.top_logprobs is not None and not self.logprobs:
            raise ValueError("`top_logprobs` needs `logprobs: true`")
        if self.messages[-1].get("role") == "assistant":
            raise ValueError("the last message must not be the assistant's: the model adds it")
        return self

    @property
    def most_tokens(self) -> int | None:
        """The longest completion, under either of its names."""
        return self.max_completion_tokens or self.max_tokens


Tokens = Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=1)]


class CompletionRequest(Sampling):
    """Prompts that the model continues, without a chat format."""

    prompt: str | list[str] | Tokens | list[Tokens]
    max_tokens: Limit | None = Field(16, description="Tokens of a completion")
    logprobs: int | None = Field(None, ge=0, le=20)
    echo: bool | None = None
    best_of: int | None = None
    suffix: str | None = None

    @model_validator(mode="after")
    def _completion(self) -> Self:
        refuse_unless(self.echo, (False,), "echo")
        refuse_unless(self.best_of, (self.n or 1,), "best_of")
        refuse_unless(self.suffix, ("",), "suffix")
        if len(self.prompts) * (self.n or 1) > MAX_COMPLETIONS:
            raise ValueError(f"at most {MAX_COMPLETIONS} completions fit in one request")
        return self

    @property
    def prompts(self) -> list[Any]:
        """Each prompt: text, or token ids."""
        prompt = self.prompt
        if isinstance(prompt, str) or (prompt and isinstance(prompt[0], int)):
            return [prompt]
        return list(prompt)
