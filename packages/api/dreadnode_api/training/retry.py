"""Retries an ended job, from its newest checkpoint."""

import hashlib
from typing import Any

from app.training.catalog import get_training_model
from sqlalchemy.ext.asyncio import AsyncSession

from dreadnode_api.auth.deps import WorkspaceScope
from dreadnode_api.checkpoints.resume_point import ResumePoint, find_resume_point
from dreadnode_api.datasets.deletion import keep_for_job
from dreadnode_api.errors import Conflict
from dreadnode_api.jobs.records import QUEUED_PHASE, QUEUED_REASON, record_event
from dreadnode_api.jobs.service import enqueue, get_job, metric_history
from dreadnode_api.models.base import new_id
from dreadnode_api.models.jobs import Job, MetricPoints, Status
from dreadnode_api.pricing.budget import SETTING, STOPPED_BY, chain_cost, reserve
from dreadnode_api.pricing.rates import rates_of
from dreadnode_api.settings import Settings
from dreadnode_api.training.checks import require_memory, still_sampled, still_served
from dreadnode_api.training.evaluated_models import ARTIFACT as MODELS
from dreadnode_api.training.evaluation_results import keep_results
from dreadnode_api.training.job_report import priced_again
from dreadnode_api.training.planning import Services
from dreadnode_api.training.rollouts import copy_rollouts
from dreadnode_api.training.service import add_once, find_by_idempotency_key
from dreadnode_api.training.starting_weights import ARTIFACT as START
from dreadnode_api.training.starting_weights import still_available

FROM_START = ResumePoint({}, step=0, has_expired=False)
_COPIED = (
    "lineage", "org_id", "workspace_id", "name", "backend", "trainer_type", "algorithm", "model",
    "trained_model", "rehearsal", "rehearse_steps", "capability", "project_ref", "run_ref", "tags",
    "config",
)  # fmt: skip


async def retry_job(
    scope: WorkspaceScope,
    job_id: str,
    key: str | None,
    *,
    from_start: bool,
    max_cost_usd: float | None,
    services: Services,
) -> tuple[Job, bool]:
    """Return a new queued job that retries an ended one, or the job of this idempotency key.

    The retry resumes from the newest checkpoint that is left. It starts over with `from_start`, and
    if the job never had a checkpoint. The second value is whether the job is new.

    Raises:
        Conflict: the job has not ended, or is complete, or all its checkpoints have expired, or
            the weights that it starts from, or the idempotency key was used for another request.
        Invalid: the engine cannot train the job's model any more, or lacks the memory.
        NotFound: there is no such job.
    """
    database, engine = services.database, services.engine
    request = f"retry {job_id}" + (" from start" if from_start else "")
    request += "" if max_cost_usd is None else f" at most {max_cost_usd!r}"
    digest = hashlib.sha256(request.encode()).hexdigest()
    if known := await find_by_idempotency_key(database, scope, key, digest):
        return known, False
    async with database.reading() as session:
        old = await _get_retryable(session, scope, job_id)
        await _resume_point(session, old, from_start=from_start)
    if old.trainer_type == "eval":
        still_sampled(old, await engine.capabilities())
    else:
        still_served(old.trained_model, await engine.capabilities())
        await require_memory(engine, old.trained_model, old.config, old.preflight)

    async def add(session: AsyncSession) -> Job:
        old = await _get_retryable(session, scope, job_id)
        await keep_for_job(session, old.org_id, old.config)
        resume_point = await _resume_point(session, old, from_start=from_start)
        job = _new_job(old, resume_point, is_paid=services.settings.is_paid)
        job.created_by, job.idempotency_key, job.request_sha256 = scope.caller.user_id, key, digest
        if max_cost_usd is not None:
            job.config = {**job.config, SETTING: max_cost_usd}
        await _add(session, services.settings, old, job, resume_point, from_start=from_start)
        return job

    return await add_once(database, scope, key, digest, add)


async def _get_retryable(session: AsyncSession, scope: WorkspaceScope, job_id: str) -> Job:
    job = await get_job(session, scope.workspace_id, job_id)
    if job.status not in (Status.FAILED, Status.CANCELLED) and job.stopped_by != STOPPED_BY:
        raise Conflict(
            f"The job `{job_id}` is {job.status}; only a failed or cancelled job, or one that its "
            "budget stopped, can be retried"
        )
    if job.preflight is None:
        raise Conflict(
            f"The data of the job `{job_id}` has not passed its check, so a retry cannot start; "
            f"`dn train clone {job_id}` creates a new job with the same settings"
        )
    return job


async def _resume_point(session: AsyncSession, old: Job, *, from_start: bool) -> ResumePoint:
    """Return where the retry starts.

    Raises:
        Conflict: all checkpoints have expired, and the request does not ask to start over; or the
            weights that the job starts from have.
    """
    if from_start:
        await still_available(session, old)
        return FROM_START
    found = await find_resume_point(session, old)
    if found.has_expired:
        raise Conflict(
            f"All checkpoints of the job `{old.id}` have expired, so the retry would start over "
            f"from step 0; to do that, run `dn train retry {old.id} --from-start`, or send "
            "`from_start: true` in the request's body"
        )
    if not found.artifacts:
        await still_available(session, old)
    return found


def _new_job(old: Job, resume_point: ResumePoint, *, is_paid: bool) -> Job:
    artifacts = dict(resume_point.artifacts)
    if capability := old.artifacts.get("capability"):
        artifacts["capability"] = capability
    for name in (MODELS, START):
        if name in old.artifacts:
            artifacts[name] = old.artifacts[name]
    return Job(
        id=new_id(),
        retry_of=old.id,
        start_step=resume_point.step,
        events=0,
        artifacts=artifacts,
        rates=_rates(old),
        paid=is_paid and not old.rehearsal,
        **{name: getattr(old, name) for name in _COPIED},
    )


async def _add(
    session: AsyncSession,
    settings: Settings,
    old: Job,
    job: Job,
    resume_point: ResumePoint,
    *,
    from_start: bool,
) -> None:
    """Put JOB into the queue, with the price, the history and the results of the OLD one."""
    job.preflight = priced_again(job, old.preflight or {})
    job.earlier_usd = chain_cost(old)
    await enqueue(session, settings, job, QUEUED_PHASE, QUEUED_REASON)
    await reserve(session, job)
    if old.trainer_type == "eval" and not from_start:
        await keep_results(session, old, job)
    if resume_point.artifacts:
        # The history so far; the start of the new job drops what comes after its checkpoint.
        for each in await metric_history(session, old.id):
            session.add(
                MetricPoints(job_id=job.id, number=each.number, step=each.step, lists=each.lists)
            )
        await copy_rollouts(session, old, job)
    job.events = max(job.events, old.events)
    record_event(
        session,
        job,
        "log",
        f"This job retries `{old.id}` {_describe_start(old, resume_point, from_start=from_start)}",
        data={"retry_of": old.id, "start_step": resume_point.step},
    )


def _describe_start(old: Job, resume_point: ResumePoint, *, from_start: bool) -> str:
    if old.trainer_type == "eval" and not from_start:
        return "and keeps its finished rows"
    if not resume_point.artifacts:
        start = old.artifacts.get(START)
        return "and starts over from step 0" + (f" with {start['path']}" if start else "")
    if resume_point.step is None:
        return "and resumes from its newest checkpoint"
    return f"and resumes from the checkpoint of step {resume_point.step}"


def _rates(old: Job) -> dict[str, Any] | None:
    """Return the rates of a retry: those of today, because it is a new submission."""
    model = get_training_model(old.model)
    if model is None or (old.rates is not None and old.rates["model"] != model.tinker_id):
        # An evaluation of several models that differ in price has no rates.
        return old.rates
    return rates_of(model).to_json()
