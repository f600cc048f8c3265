"""What reinforcement learning asks of whatever trains, beyond what supervised training does."""

from collections.abc import Awaitable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
import numpy.typing as npt

from dreadnode_runtime.backend.trainer import Trainer

Floats = npt.NDArray[np.float32]
Tokens = npt.NDArray[np.int32]


@dataclass(frozen=True, slots=True)
class Sampling:
    """How answers are drawn.

    Attributes:
        max_tokens: At most so many.
        temperature: 1 draws from the model's own distribution.
        stop: What ends an answer: token ids, or texts.
        top_p: Draws from the likeliest tokens that together have this probability.
    """

    max_tokens: int
    temperature: float
    stop: Sequence[int] | Sequence[str]
    top_p: float = 1.0


@dataclass(frozen=True, slots=True, eq=False)
class Sampled:
    """One answer as it was drawn.

    Attributes:
        tokens: Of shape (T,), the token that ended it included.
        logprobs: Of shape (T,): of each token, under the weights that drew it.
        truncated: Whether it met the limit before it ended.
    """

    tokens: Tokens
    logprobs: Floats
    truncated: bool


@dataclass(frozen=True, slots=True, eq=False)
class Sequenced:
    """Prompt and answer, or a whole conversation, as one sequence to learn from.

    Attributes:
        tokens: Of shape (T,).
        logprobs: Of shape (T,): under the weights that drew them; 0 where nothing was drawn.
        advantages: Of shape (T,): 0 where nothing was drawn.
        drawn: Of shape (T,): which tokens the model drew.
        row: Number of the dataset's row.
    """

    tokens: Tokens
    logprobs: Floats
    advantages: Floats
    drawn: npt.NDArray[np.bool_]
    row: int


@dataclass(frozen=True, slots=True)
class Loss:
    """Tinker's name of a policy loss, with its settings."""

    name: Literal["importance_sampling", "ppo"]
    config: tuple[tuple[str, float], ...] = ()


class Sampler(Protocol):
    """Draws from the weights of one moment."""

    def sample(
        self, prompt: Sequence[int], count: int, sampling: Sampling, seed: int
    ) -> Awaitable[list[Sampled]]:
        """Draw COUNT answers to PROMPT; the same SEED may draw the same again."""
        ...


class Policy(Trainer, Protocol):
    """A trainer whose weights can be drawn from, and can learn from what was drawn."""

    def learn(
        self, batch: Sequence[Sequenced], loss: Loss, learning_rate: float
    ) -> Awaitable[list[Floats]]:
        """Queue a forward-backward of LOSS and one optimizer step.

        Returns:
            To be awaited: for each sequence the log-probability, before the step, of every token
            but the first, of shape (T - 1,).
        """
        ...

    def sampler(self) -> Awaitable[Sampler]:
        """Queue a copy of the weights after everything submitted so far, to draw from."""
        ...
