"""Routes of jobs for users."""

import shutil
from functools import partial
from typing import Annotated

from anyio import to_thread
from fastapi import APIRouter, Body, Query, Request, Response

from dreadnode_api import audit
from dreadnode_api.auth.deps import Member, Reader
from dreadnode_api.errors import ERRORS
from dreadnode_api.http.deps import InDatabase, InSettings, InStore, ReadSession, WriteSession
from dreadnode_api.http.disconnect import while_connected
from dreadnode_api.http.schemas import TimestampInput
from dreadnode_api.jobs import service as jobs
from dreadnode_api.jobs.deps import JobId, JobReader
from dreadnode_api.jobs.waiting import explain_waiting
from dreadnode_api.models.jobs import ENDED, Job, Status
from dreadnode_api.pricing.budget import limit_of
from dreadnode_api.training import retry, service
from dreadnode_api.training.deletion import delete_job
from dreadnode_api.training.deps import IdempotencyKey, InServices
from dreadnode_api.training.evaluation_results import EvaluationResult, evaluation_result
from dreadnode_api.training.rehearsals import rehearsal_report
from dreadnode_api.training.rollout_schemas import MAX_STEP, Rollouts
from dreadnode_api.training.rollouts import read_rollouts
from dreadnode_api.training.schemas import (
    Artifacts,
    Backend,
    JobPage,
    JobRequest,
    Level,
    LogPage,
    RetryRequest,
    TrainerType,
    TrainingJob,
    levels_from,
)
from dreadnode_api.training.views import job_view, log_view

router = APIRouter(
    prefix="/org/{org}/ws/{ws}/training/jobs", responses=ERRORS, tags=["Training jobs"]
)

TRAINING: tuple[TrainerType, ...] = ("sft", "rl")
"""The kinds of jobs that every client knows: old ones refuse a page with another kind."""
LAST_LINES = 10
"""How many lines of its log a failed job shows."""
FilterText = Annotated[str | None, Query(max_length=200, pattern=r"^[^\x00]+$")]


@router.post(
    "",
    status_code=201,
    responses={200: {"model": TrainingJob, "description": "The job of this idempotency key"}},
)
async def create_training_job(
    scope: Member,
    request: Annotated[JobRequest, Body()],
    response: Response,
    connection: Request,
    services: InServices,
    idempotency_key: IdempotencyKey = None,
) -> TrainingJob:
    """Check a job from its model to its data, and put it into the queue if all checks pass.

    The response comes within 30 seconds. A job whose data takes longer to check is created in the
    phase `validating`, and fails with the message of the check if its data cannot be trained on.
    """
    job, new = await service.create_job(
        scope,
        request,
        idempotency_key,
        services=services,
        while_connected=partial(while_connected, connection),
    )
    response.status_code = 201 if new else 200
    async with services.database.reading() as session:
        waiting = await explain_waiting(session, job, services.settings)
        return job_view(job, await jobs.get_creator(session, job), waiting=waiting)


@router.get("")
async def list_training_jobs(
    scope: Reader,
    session: ReadSession,
    page: Annotated[int, Query(ge=1, le=1_000_000)] = 1,
    page_size: Annotated[int, Query(ge=1, le=100)] = 20,
    status: Status | None = None,
    backend: Backend | None = None,
    trainer_type: TrainerType | None = None,
    project_ref: FilterText = None,
    name: FilterText = None,
    tag: FilterText = None,
    model: FilterText = None,
    username: FilterText = None,
    id_prefix: Annotated[str | None, Query(max_length=36, pattern=r"^[0-9a-f-]+$")] = None,
    evaluations: Annotated[
        bool, Query(description="Also list jobs of the kind `eval`, which old clients do not read")
    ] = False,
) -> JobPage:
    """List jobs, newest first; evaluations only on request."""
    kinds = None if evaluations else TRAINING
    filters = {
        "status": status,
        "backend": backend,
        "trainer_type": trainer_type or kinds,
        "project_ref": project_ref,
        "name": name,
        "tag": tag,
        "model": model,
        "username": username,
        "id_prefix": id_prefix,
    }
    found, total = await jobs.list_jobs(session, scope.workspace_id, filters, page, page_size)
    items = [job_view(job, user) for job, user in found]
    return JobPage(items=items, total=total, page=page, page_size=page_size)


@router.get("/{job_id}")
async def get_training_job(
    scope: JobReader, session: ReadSession, settings: InSettings
) -> TrainingJob:
    """Return a job with its metric history, and the last lines of its log if it has failed.

    The `phase_reason` of a queued job says its position, and which limit holds it.
    """
    job = await jobs.get_job(session, scope.workspace_id, scope.job_id)
    history = await jobs.metric_history(session, job.id)
    failed = job.status == Status.FAILED
    lines = await jobs.log_lines(session, job, tail=LAST_LINES) if failed else ()
    last_lines = [each.message for each in lines]
    waiting = await explain_waiting(session, job, settings)
    creator = await jobs.get_creator(session, job)
    limit = None if job.status in ENDED else await limit_of(session, job)
    report = await rehearsal_report(session, job, history)
    return job_view(job, creator, history, last_lines, waiting, limit, report)


@router.post("/{job_id}/cancel")
async def cancel_training_job(scope: Member, job_id: JobId, session: WriteSession) -> TrainingJob:
    """End a queued job immediately; a running job saves a checkpoint and ends after its step."""
    job = await jobs.cancel_job(session, scope.workspace_id, job_id)
    return job_view(job, await jobs.get_creator(session, job))


@router.delete("/{job_id}")
async def delete_training_job(
    scope: Member, job_id: JobId, database: InDatabase, store: InStore, settings: InSettings
) -> TrainingJob:
    """Delete an ended job with its log, metrics, files and checkpoints, and return it.

    A job that another one retries is not deleted.
    """
    async with database.writing() as session:
        job = await jobs.get_job(session, scope.workspace_id, job_id)
        deleted = job_view(job, await jobs.get_creator(session, job))
        digests = await delete_job(session, scope.workspace_id, job_id)
    # After the commit, so that no row refers to a file that is gone.
    await to_thread.run_sync(store.delete_all_unused, digests)
    await to_thread.run_sync(shutil.rmtree, settings.data_dir / "jobs" / job_id, True)
    audit.record(scope.caller.user_id, scope.org_id, "deleted the job", job_id)
    return deleted


@router.post(
    "/{job_id}/retry",
    status_code=201,
    responses={200: {"model": TrainingJob, "description": "The job of this idempotency key"}},
)
async def retry_training_job(
    scope: Member,
    job_id: JobId,
    response: Response,
    services: InServices,
    body: RetryRequest | None = None,
    idempotency_key: IdempotencyKey = None,
) -> TrainingJob:
    """Queue a new job that retries this one from its newest checkpoint; the body is optional.

    `start_step` is the step from which it resumes. If all checkpoints have expired, the response is
    409, unless the request asks to start over.
    """
    job, new = await retry.retry_job(
        scope,
        job_id,
        idempotency_key,
        from_start=body is not None and body.from_start,
        max_cost_usd=None if body is None else body.max_cost_usd,
        services=services,
    )
    response.status_code = 201 if new else 200
    async with services.database.reading() as session:
        return job_view(job, await jobs.get_creator(session, job))


@router.get("/{job_id}/logs")
async def get_training_job_logs(
    scope: JobReader,
    session: ReadSession,
    after: Annotated[
        int, Query(ge=0, le=2**31 - 1, description="Only lines after this cursor")
    ] = 0,
    level: Annotated[Level, Query(description="The lowest level")] = "debug",
    since: Annotated[TimestampInput | None, Query(description="Only lines since this time")] = None,
    tail: Annotated[
        int | None, Query(ge=1, le=10_000, description="Only this many last lines")
    ] = None,
    query: Annotated[str | None, Query(max_length=200, pattern=r"^[^\x00]+$")] = None,
) -> LogPage:
    """Return the log of a job, oldest line first; without `tail`, at most 10,000 lines."""
    job: Job = await jobs.get_job(session, scope.workspace_id, scope.job_id)
    lines = await jobs.log_lines(
        session,
        job,
        after=after,
        levels=levels_from(level),
        since=since,
        tail=tail,
        query=query,
    )
    return LogPage(items=[log_view(each) for each in lines])


@router.get("/{job_id}/rollouts")
async def get_training_job_rollouts(
    scope: JobReader,
    session: ReadSession,
    step: Annotated[
        int | None, Query(ge=1, le=MAX_STEP, description="The step; the newest one if not set")
    ] = None,
) -> Rollouts:
    """Return rollouts of an RL job at one step: prompts with completions, rewards and advantages.

    A job keeps a sample of its rollouts; `steps` lists the steps that there are.
    """
    job = await jobs.get_job(session, scope.workspace_id, scope.job_id)
    return await read_rollouts(session, job, step)


@router.get("/{job_id}/evaluation")
async def get_evaluation(
    scope: JobReader, database: InDatabase, store: InStore
) -> EvaluationResult:
    """Return the result of an evaluation: figures of each model, and comparisons with the first.

    Of a job that was cancelled or that its budget stopped, it is the result of the finished rows.
    The file `evaluation/rows.jsonl` of the job has the result of each row.
    """
    return await evaluation_result(database, store, scope.workspace_id, scope.job_id)


@router.get("/{job_id}/artifacts")
async def get_training_job_artifacts(scope: JobReader, session: ReadSession) -> Artifacts:
    """Return the artifacts of a job so far."""
    job = await jobs.get_job(session, scope.workspace_id, scope.job_id)
    return Artifacts(artifacts=job.artifacts)
