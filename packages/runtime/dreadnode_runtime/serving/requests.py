"""What the serving process reads: the model once, then requests."""

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

MAX_SAMPLES = 128
MAX_TOP_LOGPROBS = 20
"""OpenAI's bounds of `n` and of `top_logprobs`."""


class ServedModel(BaseModel):
    """The weights to sample from, and the chat format that they were trained with.

    Attributes:
        model: Catalog id that the job names.
        rehearsal: Whether the stand-in was trained in its place.
        tokenizer: Folder of the trained model's tokenizer, or its id on a hub.
        chosen_tokenizer: Folder of the tokenizer that the job names, if it does.
        base_model: Name of the base model on the engine, to sample without an adapter.
        checkpoint: Path of the weights, of either kind; None samples from the base model.
        context: Maximum tokens of prompt and completion.
        streams: Whether the engine streams tokens while it samples.
        system_prompt: The job's system prompt, added to every conversation.
        renderer: Variant of the chat format that the weights were trained with, if known.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    model: str
    rehearsal: bool
    tokenizer: str
    chosen_tokenizer: str | None = None
    base_model: str
    checkpoint: str | None = None
    context: int
    streams: bool = False
    system_prompt: str | None = None
    renderer: str | None = None


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
