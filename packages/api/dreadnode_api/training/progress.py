"""Applies the progress events of a sandbox: metrics, logs, checkpoints and finally a status.

Events of an attempt are numbered, and each is applied once and in order. A sandbox may repeat an
event to which it got no response; the repeated event changes nothing. An event that arrives too
early is refused. Events of an earlier attempt, or after the end, change nothing.
"""

from typing import Any, get_args

from sqlalchemy import delete
from sqlalchemy.ext.asyncio import AsyncSession

from dreadnode_api.checkpoints.records import (
    CheckpointEvent,
    record_saved,
    record_writing,
    whole_number,
)
from dreadnode_api.errors import Conflict, Invalid
from dreadnode_api.jobs.records import end_job, lock, record_event, set_phase
from dreadnode_api.models.jobs import ENDED, Job, MetricPoints, Status, StepRollouts
from dreadnode_api.pricing.budget import STOPPED_BY
from dreadnode_api.pricing.ledger import record_usage
from dreadnode_api.training.evaluated_models import ARTIFACT as MODELS
from dreadnode_api.training.evaluation_results import delete_parts
from dreadnode_api.training.rollouts import store_rollouts
from dreadnode_api.training.schemas import Phase, ProgressRequest
from dreadnode_api.training.starting_weights import ARTIFACT as START

AXES = ("steps", "eval/steps")
MAX_LIST = 100_000
MAX_STEP = 2**53
MAX_REASON = 2_000
_EVALUATED = {"eval_loss": "eval/loss", "eval_reward": "eval/reward"}
"""The fields of a job's progress that an evaluation sets and a step keeps."""
_LEVELS = {"training_error": "error"}


async def apply(session: AsyncSession, job_id: str, attempt: int, event: ProgressRequest) -> Job:
    """Apply `event`, sent with the token of `attempt`, and return the updated job.

    Raises:
        Conflict: an earlier event of the attempt is missing.
        Invalid: the event is invalid.
    """
    job = await lock(session, job_id)
    if (event.attempt or attempt) > attempt:
        raise Invalid(f"This token belongs to attempt {attempt}", "attempt")
    if event.usage is not None:
        # Also of an attempt that is over: its tokens were used.
        record_usage(job, event.attempt or attempt, event.usage.model_dump())
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
    if event.rollouts is not None and event.event_type != "rollouts":
        raise Invalid("Only an event `rollouts` may have rollouts", "rollouts")
    for name in (MODELS, START):
        if name in (event.artifacts or {}):
            # The dispatcher gives the next attempt an engine key for the weights that they name.
            raise Invalid(
                f"The API sets the artifact `{name}`, and a sandbox cannot change it; leave it out",
                "artifacts",
                name,
            )
    await _apply(session, job, event)
    return job


async def _apply(session: AsyncSession, job: Job, event: ProgressRequest) -> None:
    kind = event.event_type
    if kind == "phase":
        _phase(session, job, event)
        return
    if kind == "rollouts":
        await store_rollouts(session, job, event.rollouts)
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
    number = record_event(session, job, kind, event.message, level=level, data=data)
    if event.artifacts and kind != "checkpoint_writing":
        job.artifacts = {**job.artifacts, **event.artifacts}
    if kind == "checkpoint_writing":
        await record_writing(session, job, _checkpoint_event(event, number))
    elif kind in ("checkpoint_saved", "training_end"):
        await record_saved(session, job, _checkpoint_event(event, number))
    if kind == "training_end":
        await _finish(session, job, event, number)
    elif kind == "training_error":
        await _fail(session, job, event)
    else:
        _add_metrics(session, job, event, number)


def _checkpoint_event(event: ProgressRequest, number: int) -> CheckpointEvent:
    ends = event.event_type == "training_end"
    return CheckpointEvent(
        number=number,
        data=event.data,
        artifacts=event.artifacts or {},
        metrics=event.metrics,
        ends_job=ends and event.data.get("cancelled") is not True,
        is_save=event.event_type == "checkpoint_saved",
    )


def check_metrics(metrics: dict[str, Any]) -> None:
    """Check that every metric is a number, a string or null, or a list of them.

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
        raise Invalid(f"`{phase}` is not a phase of a job", "data", "phase")
    reason = event.data.get("reason") or event.message
    if reason is not None and not (isinstance(reason, str) and len(reason) <= MAX_REASON):
        raise Invalid(
            f"`reason` must be a string of at most {MAX_REASON:,} characters", "data", "reason"
        )
    if job.phase != "cancelling":
        set_phase(session, job, phase, reason)


async def _start(session: AsyncSession, job: Job, event: ProgressRequest) -> None:
    """Start, or resume from a checkpoint, after which metrics and rollouts are sent again."""
    value = event.data.get("start", event.data.get("step"))
    step = 0 if value is None else whole_number(value)
    if step is None or step < 0:
        raise Invalid(
            "The step to resume from must be a whole number of at least 0", "data", "start"
        )
    if job.start_step is not None:
        # The engine may have lost the checkpoint that the retry should resume from.
        job.start_step = min(job.start_step, step)
    for table in (MetricPoints, StepRollouts):
        await session.execute(delete(table).where(table.job_id == job.id, table.step > step))
    if job.phase != "cancelling":
        set_phase(session, job, "training")


def _step(job: Job, event: ProgressRequest) -> None:
    data = event.data
    job.progress = {
        **{name: value for name, value in (job.progress or {}).items() if name in _EVALUATED},
        "step": whole_number(data.get("step")),
        "steps": whole_number(data.get("steps")),
        "tokens": whole_number(data.get("tokens_total", data.get("tokens"))),
        "loss": _newest(event.metrics.get("train/loss", data.get("loss"))),
        "reward": _newest(event.metrics.get("train/reward")),
        "seconds_left": _number(data.get("seconds_left")),
    }


def _evaluation(job: Job, event: ProgressRequest) -> None:
    values = {name: _newest(event.metrics.get(metric)) for name, metric in _EVALUATED.items()}
    known = {name: value for name, value in values.items() if value is not None}
    # A loop may evaluate before its first step.
    job.progress = {"step": 0, **(job.progress or {}), **known}


def _newest(value: Any) -> float | None:
    return _number(value[-1] if isinstance(value, list) and value else value)


def _number(value: Any) -> float | None:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return float(value) if is_number else None


def _add_metrics(session: AsyncSession, job: Job, event: ProgressRequest, number: int) -> None:
    """Append the lists and replace the scalars."""
    lists = {name: v for name, v in event.metrics.items() if isinstance(v, list)}
    scalars = {name: v for name, v in event.metrics.items() if not isinstance(v, list)}
    if lists:
        axis = next((lists[name] for name in AXES if lists.get(name)), [event.data.get("step")])
        step = _number(axis[-1]) or 0.0
        if not 0 <= step < MAX_STEP:
            raise Invalid(f"A step must be between 0 and {MAX_STEP:,}", "metrics")
        session.add(MetricPoints(job_id=job.id, number=number, step=int(step), lists=lists))
    if scalars:
        job.scalars = {**job.scalars, **scalars}


async def _finish(session: AsyncSession, job: Job, event: ProgressRequest, number: int) -> None:
    """Replace the metrics by the final ones, which hold the whole history, and end the job."""
    if event.metrics:
        await session.execute(delete(MetricPoints).where(MetricPoints.job_id == job.id))
        lists = {name: v for name, v in event.metrics.items() if isinstance(v, list)}
        job.scalars = {n: v for n, v in event.metrics.items() if not isinstance(v, list)}
        if lists:
            session.add(MetricPoints(job_id=job.id, number=number, step=0, lists=lists))
    cancelled = event.data.get("cancelled") is True
    if job.trainer_type == "eval" and not cancelled and event.data.get("stopped_by") is None:
        await delete_parts(session, job.id)
    job.stopped_by = STOPPED_BY if event.data.get("stopped_by") == STOPPED_BY else None
    await end_job(session, job, Status.CANCELLED if cancelled else Status.COMPLETED)


async def _fail(session: AsyncSession, job: Job, event: ProgressRequest) -> None:
    """End the job, unless the infrastructure failed: then the dispatcher may retry it."""
    message = event.error or event.message or "The training loop failed without an error message"
    if event.data.get("fault") == "infrastructure":
        set_phase(session, job, job.phase or "starting", message)
        return
    code = event.data.get("code")
    await end_job(
        session,
        job,
        Status.FAILED,
        error=message,
        code=code[:64] if isinstance(code, str) else "training_error",
    )
