"""The interface that the training loops need; a fake of a few lines implements it in tests."""

from collections.abc import Awaitable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from dreadnode_runtime.data.sequences import Example


@dataclass(frozen=True, slots=True)
class Optimizer:
    """Adam settings other than the learning rate.

    Attributes:
        beta1: Decay rate of the first moment.
        beta2: Decay rate of the second moment.
        eps: Adam epsilon, added to the denominator.
        weight_decay: Decoupled weight decay (AdamW).
        grad_clip_norm: Clip gradients to this norm; 0 disables clipping.
    """

    beta1: float = 0.9
    beta2: float = 0.95
    eps: float = 1e-8
    weight_decay: float = 0.0
    grad_clip_norm: float = 0.0


@dataclass(frozen=True, slots=True)
class Adapter:
    """The shape of a new LoRA adapter.

    Attributes:
        rank: LoRA rank.
        seed: Random seed of its initialization.
        train_mlp: Train the layers of the MLP, experts included.
        train_attn: Train the attention projections.
        train_unembed: Train the last layer (`lm_head`).
    """

    rank: int
    seed: int = 0
    train_mlp: bool = True
    train_attn: bool = True
    train_unembed: bool = True


@dataclass(frozen=True, slots=True)
class StartingWeights:
    """Weights that a training starts from in place of a new adapter.

    Attributes:
        path: The engine's path of the checkpoint.
        token: Opens a checkpoint of another owner; None where the own key does.
    """

    path: str
    token: str | None = None


@dataclass(frozen=True, slots=True)
class Saved:
    """A checkpoint that the engine has confirmed.

    Attributes:
        path: The engine's path of the checkpoint.
        bytes: Its size; None if the engine does not report it.
    """

    path: str
    bytes: int | None = None


@dataclass(frozen=True, slots=True)
class Export:
    """The results of a finished training.

    Attributes:
        state: Weights and optimizer, to resume from.
        sampler: Weights to sample from.
        adapter: Folder with the PEFT adapter's files.
        notes: What PEFT would not load of the adapter.
    """

    state: Saved
    sampler: Saved
    adapter: Path
    notes: Sequence[str] = ()


class Trainer(Protocol):
    """Trains one LoRA adapter; the engine runs operations in the order of submission.

    Attributes:
        resumed: Whether training continues from a checkpoint.
    """

    resumed: bool

    @property
    def tokenizer(self) -> str | None:
        """Folder or hub id of the trained model's tokenizer, if known."""
        ...

    def submit(
        self, batches: Sequence[Sequence[Example]], learning_rate: float
    ) -> Awaitable[list[float]]:
        """Submit a forward-backward pass for each of BATCHES and one optimizer step.

        Returns:
            An awaitable of one loss for each example, in order: the sum, in nats, over the tokens
            that carry loss, each counted once at any weight.
        """
        ...

    def evaluate(self, batch: Sequence[Example]) -> Awaitable[list[float]]:
        """Submit a forward pass with the current weights; the losses are as in `submit`."""
        ...

    def save(self, name: str) -> Awaitable[Saved]:
        """Submit a save of weights and optimizer."""
        ...

    async def export(self, name: str, folder: Path, checkpoint: str | None = None) -> Export:
        """Save everything under NAME, and download the adapter's files into FOLDER.

        Args:
            name: Name of the checkpoints.
            folder: Created if it does not exist.
            checkpoint: Path of the weights to export; the current weights if None.

        Raises:
            JobFailed: The weights are not finite, or the export lacks a file.
        """
        ...
