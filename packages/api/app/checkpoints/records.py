"""From what a sandbox tells to rows: one for each checkpoint, from its event's artifacts."""

from collections.abc import Sequence
from typing import Any

from sqlalchemy import select, update
from sqlalchemy.ext.asyncio import AsyncSession

from app.checkpoints.tables import Checkpoint, State
from app.errors import Invalid
from app.jobs.tables import Job
from app.training.schemas import ProgressRequest

MAX_PATH = 500
MAX_BYTES = 2**62
KINDS = {"latest_checkpoint": "training", "sampler_checkpoint": "sampler"}
"""The artifacts that name one checkpoint, and which kind it is of."""


async def tell(session: AsyncSession, job: Job, event: ProgressRequest, number: int) -> None:
    """Write down the checkpoints that a `checkpoint_saved` or `training_end` event names.

    The data may hold `step`, `bytes` and `state` (`writing`, or `ready`, which is the default);
    a checkpoint that was told before is brought up to date.

    Raises:
        Invalid: a path, the state or the size cannot be understood.
    """
    artifacts = event.artifacts or {}
    final = event.event_type == "training_end"
    for name, kind in KINDS.items():
        path = artifacts.get(name)
        if path is None:
            continue
        if not isinstance(path, str) or not 0 < len(path) <= MAX_PATH:
            raise Invalid(
                f"`{name}` must be a path of at most {MAX_PATH} characters", "artifacts", name
            )
        row = await session.get(Checkpoint, (job.id, path))
        if row is None:
            row = Checkpoint(job_id=job.id, path=path, number=number, kind=kind, metrics={})
            row.attempt, row.state = job.attempt, State.READY
            session.add(row)
        _fill(row, job, event)
        # A cancelled job leaves a checkpoint to go on from, and no final one.
        row.is_final = row.is_final or (final and event.data.get("cancelled") is not True)
    best = artifacts.get("best_checkpoint")
    if isinstance(best, str):
        await session.flush()
        await session.execute(
            update(Checkpoint)
            .where(Checkpoint.job_id == job.id)
            .values(is_best=Checkpoint.path == best)
            .execution_options(synchronize_session=False)
        )


def _fill(row: Checkpoint, job: Job, event: ProgressRequest) -> None:
    data = event.data
    state = data.get("state", State.READY.value)
    if state not in (State.WRITING, State.READY):
        raise Invalid("The state of a checkpoint must be `writing` or `ready`", "data", "state")
    if row.state != State.EXPIRED:
        row.state = state
    size = data.get("bytes")
    if size is not None:
        if isinstance(size, bool) or not isinstance(size, int) or not 0 <= size < MAX_BYTES:
            raise Invalid("The size of a checkpoint must be a whole number", "data", "bytes")
        row.bytes = size
    done = job.progress or {}
    step = data.get("step", done.get("step"))
    if row.step is None and isinstance(step, int) and not isinstance(step, bool):
        row.step = step
    if event.event_type == "checkpoint_saved":
        row.metrics = {**row.metrics, **_metrics(row, done, event.metrics)}


def _metrics(row: Checkpoint, done: dict[str, Any], told: dict[str, Any]) -> dict[str, Any]:
    """Return the numbers of a checkpoint: those told with it, or else the loss of its step."""
    scalars = {name: value for name, value in told.items() if not isinstance(value, list)}
    if not scalars and done.get("step") == row.step and done.get("loss") is not None:
        return {"train/loss": done["loss"]}
    return scalars


async def of_job(session: AsyncSession, job_id: str) -> Sequence[Checkpoint]:
    """Return the checkpoints of a job, oldest first."""
    found = await session.scalars(
        select(Checkpoint)
        .where(Checkpoint.job_id == job_id)
        .order_by(Checkpoint.number, Checkpoint.kind.desc(), Checkpoint.path)
    )
    return found.all()
