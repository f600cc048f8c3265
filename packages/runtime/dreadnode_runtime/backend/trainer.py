"""The little that a loop asks of whatever trains: a fake of a few lines serves every test."""

from collections.abc import Awaitable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from dreadnode_runtime.data.rendering import Example


@dataclass(frozen=True, slots=True)
class Optimizer:
    """Adam's settings other than the learning rate; the defaults change nothing."""

    beta1: float = 0.9
    beta2: float = 0.95
    eps: float = 1e-8
    weight_decay: float = 0.0
    grad_clip_norm: float = 0.0


@dataclass(frozen=True, slots=True)
class Saved:
    """A checkpoint that the engine has acknowledged.

    Attributes:
        path: Where the engine has it.
        bytes: Its size; None where the engine does not say.
    """

    path: str
    bytes: int | None = None


@dataclass(frozen=True, slots=True)
class Export:
    """What is left of a finished training.

    Attributes:
        state: What to resume from: weights and optimizer.
        sampler: What to sample from.
        adapter: Folder with the PEFT adapter's files.
    """

    state: Saved
    sampler: Saved
    adapter: Path


class Trainer(Protocol):
    """Trains one LoRA adapter. Work is done in the order in which it is submitted.

    Attributes:
        resumed: Whether it goes on from a checkpoint.
    """

    resumed: bool

    @property
    def tokenizer(self) -> str | None:
        """Folder or hub id of the trained model's tokenizer, if known."""
        ...

    def submit(
        self, batches: Sequence[Sequence[Example]], learning_rate: float
    ) -> Awaitable[list[float]]:
        """Queue a forward-backward for each of BATCHES and one optimizer step after them.

        Returns:
            To be awaited: for each example, in order, the loss in nats summed over the tokens that
            carry loss, each counted once whatever its weight.
        """
        ...

    def evaluate(self, batch: Sequence[Example]) -> Awaitable[list[float]]:
        """Queue a forward pass; await it for the same figures, at the weights of this moment."""
        ...

    def save(self, name: str) -> Awaitable[Saved]:
        """Queue a save of weights and optimizer; await what to resume from."""
        ...

    async def export(self, name: str, folder: Path, checkpoint: str | None = None) -> Export:
        """Save everything under NAME, and fetch the adapter's files into FOLDER.

        Args:
            name: Of what is saved.
            folder: Made if missing.
            checkpoint: Whose weights; those of this moment when there is none.

        Raises:
            JobFailed: The weights are no numbers, or the export lacks a file.
        """
        ...
