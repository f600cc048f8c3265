"""From what a sandbox tells to rows: one for each checkpoint, from its event's artifacts."""

from collections.abc import Sequence
from typing import Any

from sqlalchemy import select, update
from sqlalchemy.ext.asyncio import AsyncSession

from dreadnode_api.errors import Invalid
from dreadnode_api.models.base import now
from dreadnode_api.models.checkpoints import Checkpoint, State
from dreadnode_api.models.jobs import Job
from dreadnode_api.training.schemas import ProgressRequest

MAX_PATH = 500
MAX_BYTES = 2**62
KINDS = {"latest_checkpoint": "training", "sampler_checkpoint": "sampler"}
"""The artifacts that name one checkpoint, and which kind it is of."""


async def begin(session: AsyncSession, job: Job, event: ProgressRequest, number: int) -> None:
    """Write down that a checkpoint is being saved; `name` and `step` are its event's data.

    Raises:
        Invalid: one of them is missing or cannot be understood.
    """
    name, step = event.data.get("name"), _whole(event.data.get("step"))
    if not isinstance(name, str) or not 0 < len(name) <= MAX_PATH or "://" in name:
        raise Invalid(f"`name` must be a name of at most {MAX_PATH} characters", "data", "name")
    if step is None or step < 0:
        raise Invalid("The step of a checkpoint must be a whole number", "data", "step")
    row = await session.get(Checkpoint, (job.id, name))
    if row is None:
        row = Checkpoint(job_id=job.id, path=name, metrics={}, kind=KINDS["latest_checkpoint"])
        session.add(row)
    row.number, row.step, row.attempt, row.state = number, step, job.attempt, State.WRITING


async def tell(session: AsyncSession, job: Job, event: ProgressRequest, number: int) -> None:
    """Write down the checkpoints that a `checkpoint_saved` or `training_end` event names.

    The data may hold `step`, `bytes` and `metrics`; one that was told before is brought up to
    date, and one that was being written at this step is what is saved now.

    Raises:
        Invalid: a path, the size or the metrics cannot be understood.
    """
    artifacts = event.artifacts or {}
    cancelled = event.event_type == "training_end" and event.data.get("cancelled") is True
    for name, kind in KINDS.items():
        path = artifacts.get(name)
        if path is None:
            continue
        if not isinstance(path, str) or not 0 < len(path) <= MAX_PATH:
            raise Invalid(
                f"`{name}` must be a path of at most {MAX_PATH} characters", "artifacts", name
            )
        row = await _row(session, job, path, kind, _step(job, event))
        if row is None:
            row = Checkpoint(job_id=job.id, path=path, number=number, kind=kind, metrics={})
            row.attempt = job.attempt
            session.add(row)
        _fill(row, job, event)
        # A cancelled job leaves a checkpoint to go on from, and no final one.
        row.is_final = row.is_final or (event.event_type == "training_end" and not cancelled)
    best = artifacts.get("best_checkpoint")
    if isinstance(best, str):
        await session.flush()
        await session.execute(
            update(Checkpoint)
            .where(Checkpoint.job_id == job.id)
            .values(is_best=Checkpoint.path == best)
            .execution_options(synchronize_session=False)
        )


async def _row(
    session: AsyncSession, job: Job, path: str, kind: str, step: int | None
) -> Checkpoint | None:
    """Return the row of `path`: its own, or the one that was being written under a name."""
    row: Checkpoint | None = await session.get(Checkpoint, (job.id, path))
    written: Checkpoint | None = None
    if kind == KINDS["latest_checkpoint"]:
        written = await session.scalar(
            select(Checkpoint).where(
                Checkpoint.job_id == job.id,
                Checkpoint.state == State.WRITING,
                Checkpoint.step == step,
            )
        )
    if row is None and written is not None:
        written.path, written.created_at = path, now()
        return written
    if written is not None:
        await session.delete(written)
    return row


def _fill(row: Checkpoint, job: Job, event: ProgressRequest) -> None:
    data = event.data
    if row.state != State.EXPIRED:
        row.state = State.READY
    size = data.get("sampler_bytes" if row.kind == "sampler" else "bytes")
    if size is not None:
        if _whole(size) is None or not 0 <= size < MAX_BYTES:
            raise Invalid("The size of a checkpoint must be a whole number", "data", "bytes")
        row.bytes = size
    if row.step is None:
        row.step = _step(job, event)
    row.metrics = {**row.metrics, **_metrics(row, job.progress or {}, event)}


def _step(job: Job, event: ProgressRequest) -> int | None:
    return _whole(event.data.get("step", (job.progress or {}).get("step")))


def _whole(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _metrics(row: Checkpoint, done: dict[str, Any], event: ProgressRequest) -> dict[str, Any]:
    """Return the numbers of a checkpoint: those told with it, or else the loss of its step."""
    told = event.data.get("metrics")
    if told is not None:
        if not isinstance(told, dict) or not all(_number(value) for value in told.values()):
            raise Invalid("The metrics of a checkpoint must be numbers", "data", "metrics")
        return told
    if event.event_type != "checkpoint_saved":
        return {}
    scalars = {name: value for name, value in event.metrics.items() if not isinstance(value, list)}
    if not scalars and done.get("step") == row.step and done.get("loss") is not None:
        return {"train/loss": done["loss"]}
    return scalars


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


async def of_job(session: AsyncSession, job_id: str) -> Sequence[Checkpoint]:
    """Return the checkpoints of a job, oldest first."""
    found = await session.scalars(
        select(Checkpoint)
        .where(Checkpoint.job_id == job_id)
        .order_by(Checkpoint.number, Checkpoint.kind.desc(), Checkpoint.path)
    )
    return found.all()
