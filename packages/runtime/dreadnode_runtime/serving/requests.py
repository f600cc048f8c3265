"""What the serving process reads: the model once, then requests."""

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from dreadnode_runtime.data.load_rendering import ChatFormat

MAX_SAMPLES = 128
MAX_TOP_LOGPROBS = 20
"""OpenAI's bounds of `n` and of `top_logprobs`."""


class ServedModel(ChatFormat):
    """The weights to sample from, and the chat format that they were trained with.

    Attributes:
        base_model: Name of the base model on the engine, to sample without an adapter.
        checkpoint: Path of the weights, of either kind; None samples from the base model.
        context: Maximum tokens of prompt and completion.
        streams: Whether the engine streams tokens while it samples.
        system_prompt: The job's system prompt, added to every conversation.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    base_model: str
    checkpoint: str | None = None
    context: int
    streams: bool = False
    system_prompt: str | None = None


class Generation(BaseModel):
    """A conversation that the model continues, or a prompt that it completes.

    Attributes:
        id: Names the request in the responses.
        messages: A conversation in any dialect that rows have; None completes `prompt`.
        system: System prompt beside the messages, as Anthropic's clients send it.
        tools: Declared tools, in any dialect that rows have.
        prompt: Text, or token ids, that the model continues without a chat format.
        max_tokens: Tokens of a completion; None takes what the context leaves.
        n: Number of completions.
        logprobs: How many of the most likely tokens are reported at each position, beside the
            sampled one; None reports no log-probabilities.
        stream: Whether parts are emitted while the model samples.
        only_count: Return the number of prompt tokens and sample nothing.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    id: str
    messages: list[dict[str, Any]] | None = None
    system: Any = None
    tools: list[dict[str, Any]] = []
    prompt: str | list[int] | None = None
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    temperature: Annotated[float, Field(ge=0)] = 1.0
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    seed: int = 0
    stop: tuple[str, ...] = ()
    n: Annotated[int, Field(ge=1, le=MAX_SAMPLES)] = 1
    logprobs: Annotated[int, Field(ge=0, le=MAX_TOP_LOGPROBS)] | None = None
    stream: bool = False
    only_count: bool = False


class Cancel(BaseModel):
    """Ends the request with this id; its row is free at the engine's next token."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    cancel: str
