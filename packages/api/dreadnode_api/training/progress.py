"""What a sandbox tells becomes metrics, logs, checkpoints and in the end a state.

Events of an attempt are numbered. Each is applied once and in order: one that was applied is
answered and otherwise ignored, so a sandbox may repeat what it got no answer to; one that comes
too early is refused. Events of an attempt that was given up, and events after the end, change
nothing.
"""

from typing import Any, get_args

from sqlalchemy import delete
from sqlalchemy.ext.asyncio import AsyncSession

from dreadnode_api.checkpoints import records as checkpoints
from dreadnode_api.errors import Conflict, Invalid
from dreadnode_api.jobs.records import end, lock, record, set_phase
from dreadnode_api.models.jobs import ENDED, Job, Points, Status
from dreadnode_api.training.schemas import Phase, ProgressRequest

AXES = ("steps", "eval/steps")
MAX_LIST = 100_000
MAX_STEP = 2**53
MAX_REASON = 2_000
_JUDGED = {"eval_loss": "eval/loss", "eval_reward": "eval/reward"}
"""What of a job's progress an evaluation tells, and steps leave as it is."""
_LEVELS = {"training_error": "error"}


async def apply(session: AsyncSession, job_id: str, attempt: int, event: ProgressRequest) -> Job:
    """Apply `event`, told with the key of `attempt`, and return the job as it is then.

    Raises:
        Conflict: an earlier event of the attempt is missing.
        Invalid: the event cannot be understood.
    """
    job = await lock(session, job_id)
    if (event.attempt or attempt) > attempt:
        raise Invalid(f"This key is that of attempt {attempt}", "attempt")
    if job.status in ENDED or (event.attempt or attempt) < job.attempt:
        return job
    if event.seq is not None:
        if event.seq <= job.applied_seq:
            return job
        if event.seq > job.applied_seq + 1:
            raise Conflict(
                f"Event {event.seq} came before event {job.applied_seq + 1}; send them in order"
            )
        job.applied_seq = event.seq
    check_metrics(event.metrics)
    await _apply(session, job, event)
    return job


async def _apply(session: AsyncSession, job: Job, event: ProgressRequest) -> None:
    kind = event.event_type
    if kind == "phase":
        _phase(session, job, event)
        return
    if kind == "training_start":
        await _start(session, job, event)
    elif kind == "step_complete":
        _step(job, event)
    elif kind == "eval_complete":
        _evaluation(job, event)
    data = event.data
    if event.metrics and kind != "training_end":
        data = {**data, "metrics": event.metrics}
    level = _LEVELS.get(kind, event.level)
    number = record(session, job, kind, event.message, level=level, data=data)
    if event.artifacts and kind != "checkpoint_writing":
        job.artifacts = {**job.artifacts, **event.artifacts}
    if kind == "checkpoint_writing":
        await checkpoints.begin(session, job, event, number)
    elif kind in ("checkpoint_saved", "training_end"):
        await checkpoints.tell(session, job, event, number)
    if kind == "training_end":
        await _finish(session, job, event, number)
    elif kind == "training_error":
        await _fail(session, job, event)
    else:
        _measure(session, job, event, number)


def check_metrics(metrics: dict[str, Any]) -> None:
    """Return if every metric is a number, a text or nothing, or a list of them.

    Raises:
        Invalid: one is something else.
    """
    for name, value in metrics.items():
        values = value if isinstance(value, list) else [value]
        if len(values) > MAX_LIST or not all(_scalar(v) for v in values):
            raise Invalid(
                f"The metric `{name}` must be a number, or a list of at most {MAX_LIST:,} numbers",
                "metrics",
                name,
            )


def _scalar(value: Any) -> bool:
    return value is None or isinstance(value, bool | int | float | str)


def _phase(session: AsyncSession, job: Job, event: ProgressRequest) -> None:
    phase = str(event.data.get("phase"))
    if phase not in get_args(Phase):
        raise Invalid(f"`{phase}` is no phase of a job", "data", "phase")
    reason = event.data.get("reason") or event.message
    if reason is not None and not (isinstance(reason, str) and len(reason) <= MAX_REASON):
        raise Invalid(
            f"`reason` must be a text of at most {MAX_REASON:,} characters", "data", "reason"
        )
    if job.phase != "cancelling":
        set_phase(session, job, phase, reason)


async def _start(session: AsyncSession, job: Job, event: ProgressRequest) -> None:
    """Begin, or go on from a checkpoint: what an earlier attempt told beyond it is told again."""
    told = event.data.get("start", event.data.get("step"))
    step = 0 if told is None else _whole(told)
    if step is None or step < 0:
        raise Invalid("The step to go on from must be a whole number from 0 on", "data", "start")
    if job.start_step is not None:
        # The engine may have lost the checkpoint that the repetition was handed.
        job.start_step = min(job.start_step, step)
    await session.execute(delete(Points).where(Points.job_id == job.id, Points.step > step))
    if job.phase != "cancelling":
        set_phase(session, job, "training")


def _step(job: Job, event: ProgressRequest) -> None:
    told = event.data
    job.progress = {
        **{name: value for name, value in (job.progress or {}).items() if name in _JUDGED},
        "step": _whole(told.get("step")),
        "steps": _whole(told.get("steps")),
        "tokens": _whole(told.get("tokens_total", told.get("tokens"))),
        "loss": _newest(event.metrics.get("train/loss", told.get("loss"))),
        "reward": _newest(event.metrics.get("train/reward")),
        "seconds_left": _number(told.get("seconds_left")),
    }


def _evaluation(job: Job, event: ProgressRequest) -> None:
    told = {name: _newest(event.metrics.get(metric)) for name, metric in _JUDGED.items()}
    known = {name: value for name, value in told.items() if value is not None}
    # A loop may evaluate before its first step.
    job.progress = {"step": 0, **(job.progress or {}), **known}


def _newest(value: Any) -> float | None:
    return _number(value[-1] if isinstance(value, list) and value else value)


def _whole(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _number(value: Any) -> float | None:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return float(value) if is_number else None


def _measure(session: AsyncSession, job: Job, event: ProgressRequest, number: int) -> None:
    """Append lists and replace scalars."""
    lists = {name: v for name, v in event.metrics.items() if isinstance(v, list)}
    scalars = {name: v for name, v in event.metrics.items() if not isinstance(v, list)}
    if lists:
        told = event.data.get("step")
        axis = next((lists[name] for name in AXES if lists.get(name)), [told])
        step = _number(axis[-1]) or 0.0
        if not 0 <= step < MAX_STEP:
            raise Invalid(f"A step must lie between 0 and {MAX_STEP:,}", "metrics")
        session.add(Points(job_id=job.id, number=number, step=int(step), lists=lists))
    if scalars:
        job.scalars = {**job.scalars, **scalars}


async def _finish(session: AsyncSession, job: Job, event: ProgressRequest, number: int) -> None:
    """Replace the metrics by the final ones, which repeat the whole series, and end the job."""
    if event.metrics:
        await session.execute(delete(Points).where(Points.job_id == job.id))
        lists = {name: v for name, v in event.metrics.items() if isinstance(v, list)}
        job.scalars = {n: v for n, v in event.metrics.items() if not isinstance(v, list)}
        if lists:
            session.add(Points(job_id=job.id, number=number, step=0, lists=lists))
    cancelled = event.data.get("cancelled") is True
    await end(session, job, Status.CANCELLED if cancelled else Status.COMPLETED)


async def _fail(session: AsyncSession, job: Job, event: ProgressRequest) -> None:
    """End the job, unless the fault is not its own: then the dispatcher may try it again."""
    sentence = event.error or event.message or "The training loop failed without saying why"
    if event.data.get("fault") == "infrastructure":
        set_phase(session, job, job.phase or "starting", sentence)
        return
    code = event.data.get("code")
    await end(
        session,
        job,
        Status.FAILED,
        error=sentence,
        code=code[:64] if isinstance(code, str) else "training_error",
    )
