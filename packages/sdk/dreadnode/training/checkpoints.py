"""Checkpoints of a job, as they cross the wire."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from pydantic import Field

from dreadnode.wire import Response


class Checkpoint(Response):
    """What a job has saved on the engine.

    Attributes:
        path: Where the engine has it.
        kind: `training`, with optimizer and position, or `sampler`, weights alone.
        state: `writing`, `ready` or `expired`.
        step: How many optimizer steps it holds.
        bytes: Its size, as soon as it is known.
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


class CheckpointList(Response):
    """The checkpoints of a job, oldest first."""

    items: list[Checkpoint]
