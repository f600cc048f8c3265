"""Checkpoints of a job, as they cross the wire."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from pydantic import Field

from dreadnode.training.jobs import JobFile
from dreadnode.wire import Request, Response


class Checkpoint(Response):
    """What a job has saved on the engine.

    Attributes:
        path: Where the engine has it.
        kind: `training`, with optimizer and position, or `sampler`, weights alone.
        state: `writing`, `ready` or `expired`.
        step: How many optimizer steps it holds.
        bytes: Its size, as soon as it is known.
        adapter: The folder of the job's files where it lies as an adapter, once it was exported.
    """

    path: str
    kind: str
    state: str
    step: int | None = None
    attempt: int = 1
    best: bool = False
    final: bool = False
    metrics: dict[str, Any] = Field(default_factory=dict)
    bytes: int | None = None
    created_at: datetime
    expired_at: datetime | None = None
    adapter: str | None = None

    def __repr__(self) -> str:
        return f"<Checkpoint {self.path}: {self.kind}, step {self.step}, {self.state}>"


class CheckpointList(Response):
    """The checkpoints of a job, oldest first."""

    items: list[Checkpoint]


class UploadedAdapter(Response):
    """An adapter that was trained elsewhere, from which jobs can start until it expires.

    Attributes:
        path: Its path on the engine, for the setting `from_adapter`.
        new_layers: Layers that it has no weights for; they start as new ones.
    """

    path: str
    model: str
    lora_rank: int
    train_mlp: bool
    train_attn: bool
    train_unembed: bool
    new_layers: list[str] = Field(default_factory=list)
    expires_at: datetime


class AdapterRequest(Request):
    """Which checkpoint is wanted as an adapter: its name, its path, or `best`."""

    checkpoint: str


class OfWeights(Response):
    """What a job's weights have given, and whose they are.

    Attributes:
        trained_model: In a rehearsal, the stand-in.
        checkpoint: The path of the checkpoint that was meant.
        step: Optimizer steps that the weights have behind them.
    """

    job_id: str
    model: str
    trained_model: str
    rehearsal: bool
    checkpoint: str
    step: int | None = None


class CheckpointAdapter(OfWeights):
    """A checkpoint as PEFT loads it.

    Attributes:
        folder: Where the files lie among those of the job.
    """

    folder: str
    files: list[JobFile]
