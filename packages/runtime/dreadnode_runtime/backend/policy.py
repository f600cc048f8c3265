"""The interface that reinforcement learning needs beyond that of supervised training."""

from collections.abc import Awaitable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
import numpy.typing as npt

from dreadnode_runtime.backend.trainer import Trainer

Floats = npt.NDArray[np.float32]
Tokens = npt.NDArray[np.int32]


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """Sampling settings.

    Attributes:
        max_tokens: Maximum number of tokens to sample.
        temperature: 1 samples from the model's own distribution.
        stop: Stop sequences: token ids, or strings.
        top_p: Samples from the most likely tokens that together have this probability.
        topk: How many of the most likely tokens to report at each position.
    """

    max_tokens: int
    temperature: float
    stop: Sequence[int] | Sequence[str]
    top_p: float = 1.0
    topk: int = 0


@dataclass(frozen=True, slots=True, eq=False)
class Sampled:
    """One sampled completion.

    Attributes:
        tokens: Shape (T,), including the token that ended the completion.
        logprobs: Shape (T,): log-probability of each token under the weights that sampled it.
        truncated: Whether sampling reached `max_tokens` before the completion ended.
        top: The most likely tokens at each position, with their log-probabilities, if requested.
        cached_tokens: How many tokens of the prompt came from the engine's prefix cache.
    """

    tokens: Tokens
    logprobs: Floats
    truncated: bool
    top: Sequence[Sequence[tuple[int, float]]] | None = None
    cached_tokens: int = 0


@dataclass(frozen=True, slots=True, eq=False)
class TrainingSequence:
    """Prompt and completion, or a whole conversation, as one sequence for a policy loss.

    Attributes:
        tokens: Shape (T,).
        logprobs: Shape (T,): under the weights that sampled the tokens; 0 on prompt tokens.
        advantages: Shape (T,); 0 on prompt tokens.
        sampled_mask: Shape (T,): which tokens the model sampled.
        row: Number of the dataset's row, from 1.
    """

    tokens: Tokens
    logprobs: Floats
    advantages: Floats
    sampled_mask: npt.NDArray[np.bool_]
    row: int


@dataclass(frozen=True, slots=True)
class Loss:
    """A policy loss by Tinker's name, with its settings."""

    name: Literal["importance_sampling", "ppo"]
    config: tuple[tuple[str, float], ...] = ()


class Sampler(Protocol):
    """Samples completions from one fixed version of the weights."""

    def sample(
        self, prompt: Sequence[int], count: int, sampling: SamplingParams, seed: int
    ) -> Awaitable[list[Sampled]]:
        """Sample COUNT completions of PROMPT; an engine may repeat them for the same SEED."""
        ...


class Policy(Trainer, Protocol):
    """A trainer whose weights can be sampled from and trained with a policy loss."""

    def submit_update(
        self, batch: Sequence[TrainingSequence], loss: Loss, learning_rate: float
    ) -> Awaitable[list[Floats]]:
        """Submit a forward-backward pass of LOSS and one optimizer step.

        Returns:
            An awaitable of one array for each sequence: the log-probability, before the step, of
            every token but the first, shape (T - 1,).
        """
        ...

    def sampler(self) -> Awaitable[Sampler]:
        """Submit a copy of the weights, after everything submitted so far, to sample from."""
        ...
