"""Stores and reads the rollouts that RL jobs keep."""

import zlib
from bisect import bisect
from collections.abc import Sequence

from sqlalchemy import func, insert, literal, select
from sqlalchemy.ext.asyncio import AsyncSession

from dreadnode_api.errors import Conflict, Invalid, NotFound
from dreadnode_api.models.jobs import Job, StepRollouts
from dreadnode_api.training.rollout_schemas import Rollouts, RolloutsReport

MAX_STEPS = 200
"""Steps of a job whose rollouts are kept; a runtime keeps half as many."""
MAX_BYTES = 1024 * 1024
"""Bytes of the rollouts of one step before they are compressed; a runtime sends half as many."""


async def store_rollouts(session: AsyncSession, job: Job, report: RolloutsReport | None) -> None:
    """Store the rollouts of a step of a locked job, in place of those of the same step.

    Raises:
        Invalid: there are none in the event, or too many, or the job is not an RL job.
    """
    if report is None:
        raise Invalid("An event `rollouts` needs the rollouts of a step", "rollouts")
    if job.trainer_type != "rl":
        raise Invalid("Only the sandbox of an RL job reports rollouts", "event_type")
    body = report.model_dump_json().encode()
    if len(body) > MAX_BYTES:
        raise Invalid(
            f"The rollouts of a step may have {MAX_BYTES:,} bytes, and these have {len(body):,}",
            "rollouts",
        )
    others = await session.scalar(
        select(func.count()).where(StepRollouts.job_id == job.id, StepRollouts.step != report.step)
    )
    if (others or 0) >= MAX_STEPS:
        raise Invalid(f"A job keeps the rollouts of at most {MAX_STEPS} steps", "rollouts", "step")
    content = zlib.compress(body)
    await session.merge(
        StepRollouts(job_id=job.id, step=report.step, content=content, bytes=len(content))
    )


async def copy_rollouts(session: AsyncSession, old: Job, new: Job) -> None:
    """Copy the rollouts of a job to the one that retries it."""
    columns = (StepRollouts.step, StepRollouts.content, StepRollouts.bytes)
    copied = select(literal(new.id), *columns).where(StepRollouts.job_id == old.id)
    await session.execute(insert(StepRollouts).from_select(["job_id", *columns], copied))


async def read_rollouts(session: AsyncSession, job: Job, step: int | None) -> Rollouts:
    """Return the rollouts of a step of a job; of the newest one if STEP is None.

    Raises:
        Conflict: the job is not an RL job.
        NotFound: the job has not kept the rollouts of this step.
    """
    if job.trainer_type != "rl":
        raise Conflict(f"The job `{job.id}` is not an RL job; only an RL job has rollouts")
    of_job = StepRollouts.job_id == job.id
    found = await session.scalars(
        select(StepRollouts.step).where(of_job).order_by(StepRollouts.step)
    )
    steps = list(found)
    if step is None and not steps:
        return Rollouts(steps=[], step=None, groups=[], groups_total=0)
    if step is not None and step not in steps:
        raise NotFound(f"The job `{job.id}` has no rollouts of step {step}{_nearest(steps, step)}")
    row = await session.get_one(StepRollouts, (job.id, steps[-1] if step is None else step))
    report = RolloutsReport.model_validate_json(zlib.decompress(row.content))
    return Rollouts(steps=steps, **dict(report))


def _nearest(steps: Sequence[int], step: int) -> str:
    at = bisect(steps, step)
    near = [str(each) for each in steps[max(at - 1, 0) : at + 1]]
    return f"; the nearest steps that it has kept are {' and '.join(near)}" if near else ""
