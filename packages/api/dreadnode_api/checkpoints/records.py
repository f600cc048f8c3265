"""Writes the events of a sandbox to the checkpoints table, one row for each checkpoint."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import select, update
from sqlalchemy.ext.asyncio import AsyncSession

from dreadnode_api.errors import Invalid
from dreadnode_api.models.base import now
from dreadnode_api.models.checkpoints import Checkpoint, State
from dreadnode_api.models.jobs import Job

MAX_PATH = 500
MAX_BYTES = 2**62
KINDS = {"latest_checkpoint": "training", "sampler_checkpoint": "sampler"}
"""The artifacts that name one checkpoint, and the kind of each."""


@dataclass(frozen=True, slots=True)
class CheckpointEvent:
    """What a progress event reports about checkpoints.

    Attributes:
        number: the number of the job's event.
        ends_job: whether the job ends with it and is not cancelled.
    """

    number: int
    data: Mapping[str, Any]
    artifacts: Mapping[str, Any] = field(default_factory=dict)
    metrics: Mapping[str, Any] = field(default_factory=dict)
    ends_job: bool = False
    is_save: bool = False


async def record_writing(session: AsyncSession, job: Job, event: CheckpointEvent) -> None:
    """Record that a checkpoint is being saved; the event's data has its `name` and `step`.

    Raises:
        Invalid: one of them is missing or invalid.
    """
    name, step = event.data.get("name"), whole_number(event.data.get("step"))
    if not isinstance(name, str) or not 0 < len(name) <= MAX_PATH or "://" in name:
        raise Invalid(f"`name` must be a name of at most {MAX_PATH} characters", "data", "name")
    if step is None or step < 0:
        raise Invalid("The step of a checkpoint must be a whole number", "data", "step")
    row = await session.get(Checkpoint, (job.id, name))
    if row is None:
        row = Checkpoint(job_id=job.id, path=name, metrics={}, kind=KINDS["latest_checkpoint"])
        session.add(row)
    row.number, row.step = event.number, step
    row.attempt, row.state = job.attempt, State.WRITING


async def record_saved(session: AsyncSession, job: Job, event: CheckpointEvent) -> None:
    """Record the checkpoints that a `checkpoint_saved` or `training_end` event names.

    The data may hold `step`, `bytes` and `metrics`. A known checkpoint is updated, and the one that
    was being written at this step becomes the one that is saved now.

    Raises:
        Invalid: a path, the size or the metrics are invalid.
    """
    for name, kind in KINDS.items():
        path = event.artifacts.get(name)
        if path is None:
            continue
        if not isinstance(path, str) or not 0 < len(path) <= MAX_PATH:
            raise Invalid(
                f"`{name}` must be a path of at most {MAX_PATH} characters", "artifacts", name
            )
        row = await _find(session, job, path, kind, _step(job, event))
        if row is None:
            row = Checkpoint(job_id=job.id, path=path, number=event.number, kind=kind, metrics={})
            row.attempt = job.attempt
            session.add(row)
        _update(row, job, event)
        # A cancelled job leaves a checkpoint to resume from, and no final one.
        row.is_final = row.is_final or event.ends_job
    best = event.artifacts.get("best_checkpoint")
    if isinstance(best, str):
        await session.flush()
        await session.execute(
            update(Checkpoint)
            .where(Checkpoint.job_id == job.id)
            .values(is_best=Checkpoint.path == best)
            .execution_options(synchronize_session=False)
        )


async def _find(
    session: AsyncSession, job: Job, path: str, kind: str, step: int | None
) -> Checkpoint | None:
    """Return the row of `path`: its own, or the one that was being written under a name."""
    row: Checkpoint | None = await session.get(Checkpoint, (job.id, path))
    writing: Checkpoint | None = None
    if kind == KINDS["latest_checkpoint"]:
        writing = await session.scalar(
            select(Checkpoint).where(
                Checkpoint.job_id == job.id,
                Checkpoint.state == State.WRITING,
                Checkpoint.step == step,
            )
        )
    if row is None and writing is not None:
        writing.path, writing.created_at = path, now()
        return writing
    if writing is not None:
        await session.delete(writing)
    return row


def _update(row: Checkpoint, job: Job, event: CheckpointEvent) -> None:
    if row.state != State.EXPIRED:
        row.state = State.READY
    size = event.data.get("sampler_bytes" if row.kind == "sampler" else "bytes")
    if size is not None:
        if whole_number(size) is None or not 0 <= size < MAX_BYTES:
            raise Invalid("The size of a checkpoint must be a whole number", "data", "bytes")
        row.bytes = size
    if row.step is None:
        row.step = _step(job, event)
    row.metrics = {**row.metrics, **_metrics(row, job.progress or {}, event)}


def _step(job: Job, event: CheckpointEvent) -> int | None:
    return whole_number(event.data.get("step", (job.progress or {}).get("step")))


def whole_number(value: Any) -> int | None:
    """Return VALUE if it is a whole number, which JSON's true and false are not."""
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _metrics(
    row: Checkpoint, progress: Mapping[str, Any], event: CheckpointEvent
) -> Mapping[str, Any]:
    """Return the numbers of a checkpoint: those in its event, or else the loss of its step."""
    reported = event.data.get("metrics")
    if reported is not None:
        if not isinstance(reported, dict) or not all(_is_number(v) for v in reported.values()):
            raise Invalid("The metrics of a checkpoint must be numbers", "data", "metrics")
        return reported
    if not event.is_save:
        return {}
    scalars = {name: value for name, value in event.metrics.items() if not isinstance(value, list)}
    if not scalars and progress.get("step") == row.step and progress.get("loss") is not None:
        return {"train/loss": progress["loss"]}
    return scalars


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


async def job_checkpoints(session: AsyncSession, job_id: str) -> Sequence[Checkpoint]:
    """Return the checkpoints of a job, oldest first."""
    found = await session.scalars(
        select(Checkpoint)
        .where(Checkpoint.job_id == job_id)
        .order_by(Checkpoint.number, Checkpoint.kind.desc(), Checkpoint.path)
    )
    return found.all()
