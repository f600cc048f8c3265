"""Creates jobs: checks a request from its model to its data, and puts the job into the queue."""

import asyncio
import hashlib
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from typing import Any

from sqlalchemy import select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession

from dreadnode_api import quotas
from dreadnode_api.auth.deps import WorkspaceScope
from dreadnode_api.datasets.deletion import keep_for_job
from dreadnode_api.db import Database
from dreadnode_api.errors import ApiError, Conflict
from dreadnode_api.jobs.records import QUEUED_PHASE, QUEUED_REASON, release
from dreadnode_api.jobs.service import cancel_job, enqueue
from dreadnode_api.models.base import new_id
from dreadnode_api.models.jobs import VALIDATING, Job
from dreadnode_api.pricing.budget import reserve
from dreadnode_api.training import check_results
from dreadnode_api.training.checker import CheckResult
from dreadnode_api.training.checks import require_memory
from dreadnode_api.training.evaluated_models import ARTIFACT as MODELS
from dreadnode_api.training.job_report import job_report
from dreadnode_api.training.planning import JobPlan, Services, plan_job
from dreadnode_api.training.schemas import EvalJobRequest, JobRequest, RlJobRequest
from dreadnode_api.training.starting_weights import ARTIFACT as START
from dreadnode_api.training.validation import REASON as VALIDATING_REASON

MIN_CHECK_SECONDS = 5.0
"""How long the check may take after an engine that was slow to respond."""

WhileConnected = Callable[[Coroutine[Any, Any, CheckResult | None]], Awaitable[CheckResult | None]]


async def create_job(
    scope: WorkspaceScope,
    request: JobRequest,
    key: str | None,
    *,
    services: Services,
    while_connected: WhileConnected,
) -> tuple[Job, bool]:
    """Return a new queued job, or the job of this idempotency key, and whether it is new.

    The checks run in a documented order: catalog, algorithm, engine, references, limits, data.
    Nothing is written until they have passed, and no transaction is open while they run. Only the
    check of the data may take longer than a client waits. The job is then created in the phase
    `validating`, and its check continues.

    Args:
        scope: the caller and its workspace.
        request: the job.
        key: the idempotency key, if the request has one.
        services: the application.
        while_connected: awaits the check for as long as the client is connected.

    Raises:
        ApiError: a check fails; the first one that does is reported.
    """
    loop = asyncio.get_running_loop()
    started = loop.time()
    digest = hashlib.sha256(request.model_dump_json(exclude_unset=True).encode()).hexdigest()
    database = services.database
    if known := await find_by_idempotency_key(database, scope, key, digest):
        return known, False
    plan = await plan_job(scope, request, services)
    async with database.reading() as session:
        for resource in ("queued_jobs", "stored_bytes"):
            await quotas.require(session, services.settings, scope.org_id, resource)
    job = _job(scope, plan, is_paid=services.settings.is_paid)
    job.idempotency_key, job.request_sha256 = key, digest

    async def insert(result: CheckResult | None) -> tuple[Job, bool]:
        if isinstance(request, EvalJobRequest) or not request.rehearse_first:
            return await _insert(services, scope, job, plan, result)
        if result is not None and (refusal := result.refusal()) is not None:
            raise refusal
        rehearsal, new = await create_job(
            scope,
            _rehearsal_of(request),
            None if key is None else hashlib.sha256(f"rehearsal of {key}".encode()).hexdigest(),
            services=services,
            while_connected=while_connected,
        )
        job.rehearsal_id = rehearsal.id
        try:
            return await _insert(services, scope, job, plan, result)
        except ApiError:
            # Both of them exist, or neither.
            if new:
                async with database.writing() as session:
                    with suppress(Conflict):
                        await cancel_job(session, scope.workspace_id, rehearsal.id)
            raise

    async with database.reading() as session:
        stored = await check_results.load(session, plan.check)
    if stored is not None:
        return await insert(stored)
    with services.preflight.check(plan.check) as running:
        limit = services.settings.preflight_wait_seconds
        seconds = max(started + limit - loop.time(), min(limit, MIN_CHECK_SECONDS))
        result = await while_connected(running.result(seconds))
        return await insert(result)


def _rehearsal_of(request: JobRequest) -> JobRequest:
    """Return the request for the rehearsal that goes before the job of a request."""
    config = getattr(request, "config", None)
    update: dict[str, Any] = {"rehearse": True, "rehearse_first": False}
    if config is not None and config.tokenizer is not None:
        # It is that of the job's model; the stand-in has its own.
        update["config"] = config.model_copy(update={"tokenizer": None})
    return request.model_copy(update=update)


async def _insert(
    services: Services, scope: WorkspaceScope, job: Job, plan: JobPlan, result: CheckResult | None
) -> tuple[Job, bool]:
    """Write the job, in the phase `validating` if its check has no result yet.

    Raises:
        Invalid: the check has refused the data.
    """
    if result is not None and (refusal := result.refusal()) is not None:
        raise refusal
    sources = plan.data.sources
    phase, reason = (VALIDATING, VALIDATING_REASON)
    if result is not None and result.report is not None:
        if job.trainer_type != "eval":
            await require_memory(services.engine, job.trained_model, job.config, result.report)
        job.preflight = job_report(job, result.report, sources)
        phase, reason = QUEUED_PHASE, QUEUED_REASON

    async def add(session: AsyncSession) -> Job:
        await keep_for_job(session, job.org_id, job.config)
        await enqueue(session, services.settings, job, phase, reason)
        if result is not None:
            await reserve(session, job)
            await release(session, job)
        else:
            await services.validator.add(session, job, plan.check, sources)
        return job

    found, new = await add_once(
        services.database, scope, job.idempotency_key, job.request_sha256 or "", add
    )
    if new and result is None:
        services.validator.start(job.id, plan.check, sources)
    return found, new


async def add_once(
    database: Database,
    scope: WorkspaceScope,
    key: str | None,
    digest: str,
    add: Callable[[AsyncSession], Awaitable[Job]],
) -> tuple[Job, bool]:
    """Return the job that ADD writes, or that of its idempotency key, and whether it is new.

    Raises:
        Conflict: a request with another DIGEST used the key.
    """
    try:
        async with database.writing() as session:
            return await add(session), True
    except IntegrityError:
        # Another request with the same key created its job since the look-up.
        known = await find_by_idempotency_key(database, scope, key, digest)
        if known is None:
            raise
        return known, False


async def find_by_idempotency_key(
    database: Database, scope: WorkspaceScope, key: str | None, digest: str
) -> Job | None:
    """Return the job that was created with an idempotency key, if there is one.

    Raises:
        Conflict: its request had another `digest`.
    """
    if key is None:
        return None
    async with database.reading() as session:
        known: Job | None = await session.scalar(
            select(Job).where(Job.workspace_id == scope.workspace_id, Job.idempotency_key == key)
        )
    if known is not None and known.request_sha256 != digest:
        raise Conflict(
            f"The idempotency key `{key}` was used for another job, `{known.id}`; "
            "use a new key for a new request"
        )
    return known


def _job(scope: WorkspaceScope, plan: JobPlan, *, is_paid: bool) -> Job:
    request, job_id = plan.request, new_id()
    job = Job(
        id=job_id,
        lineage=job_id,
        org_id=scope.org_id,
        workspace_id=scope.workspace_id,
        created_by=scope.caller.user_id,
        name=request.name,
        backend=request.backend,
        trainer_type=request.trainer_type,
        algorithm=request.config.algorithm if isinstance(request, RlJobRequest) else None,
        model=plan.model.tinker_id,
        trained_model=plan.trained_model,
        rehearsal=plan.rehearsal,
        rehearse_steps=request.rehearse_steps
        if plan.rehearsal and not isinstance(request, EvalJobRequest)
        else None,
        project_ref=request.project_ref,
        run_ref=request.run_ref,
        tags=list(request.tags),
        config=plan.config,
        rates=plan.rates.to_json(),
        paid=is_paid and not plan.rehearsal,
        events=0,
    )
    if plan.models:
        job.artifacts = {MODELS: list(plan.models)}
    if plan.start is not None:
        job.artifacts = {START: plan.start.to_json()}
    if plan.capability is not None:
        name, version = plan.capability.name, plan.capability.version
        job.capability = {"name": name, "version": version, "artifact_id": plan.capability.id}
        capability = f"{scope.caller.org_slug}/{name}@{version}"
        job.artifacts = {**(job.artifacts or {}), "capability": capability}
    return job
