"""Jobs, as people use them."""

from typing import Annotated

from fastapi import APIRouter, Body, Query, Response
from sqlalchemy import select

from dreadnode_api.auth.deps import Member, Reader
from dreadnode_api.errors import ERRORS
from dreadnode_api.http.deps import (
    InDatabase,
    InEngine,
    InSettings,
    InStore,
    ReadSession,
    WriteSession,
)
from dreadnode_api.http.schemas import TimestampInput
from dreadnode_api.models.jobs import Event, Job, Status
from dreadnode_api.training import retry as repetition
from dreadnode_api.training import service
from dreadnode_api.training.deps import IdempotencyKey, InPreflight, JobId, JobReader
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
)
from dreadnode_api.training.views import job_view, log_view

router = APIRouter(
    prefix="/org/{org}/ws/{ws}/training/jobs", responses=ERRORS, tags=["Training jobs"]
)

LEVELS: tuple[Level, ...] = ("debug", "info", "warning", "error")


@router.post(
    "",
    status_code=201,
    responses={200: {"model": TrainingJob, "description": "The job of this idempotency key"}},
)
async def create_training_job(
    place: Member,
    request: Annotated[JobRequest, Body()],
    response: Response,
    database: InDatabase,
    engine: InEngine,
    store: InStore,
    preflight: InPreflight,
    settings: InSettings,
    idempotency_key: IdempotencyKey = None,
) -> TrainingJob:
    """Check a job from its model to its data, and queue it if nothing speaks against it."""
    job, new = await service.create_job(
        place,
        request,
        idempotency_key,
        database=database,
        engine=engine,
        store=store,
        preflight=preflight,
        settings=settings,
    )
    response.status_code = 201 if new else 200
    async with database.reading() as session:
        return job_view(job, await service.creator(session, job))


@router.get("")
async def list_training_jobs(
    place: Reader,
    session: ReadSession,
    page: Annotated[int, Query(ge=1, le=1_000_000)] = 1,
    page_size: Annotated[int, Query(ge=1, le=100)] = 20,
    status: Status | None = None,
    backend: Backend | None = None,
    trainer_type: TrainerType | None = None,
    project_ref: Annotated[str | None, Query(max_length=200, pattern=r"^[^\x00]+$")] = None,
) -> JobPage:
    """List jobs, newest first."""
    filters = {
        "status": status,
        "backend": backend,
        "trainer_type": trainer_type,
        "project_ref": project_ref,
    }
    found, total = await service.list_jobs(session, place.workspace_id, filters, page, page_size)
    items = [job_view(job, user) for job, user in found]
    return JobPage(items=items, total=total, page=page, page_size=page_size)


@router.get("/{job_id}")
async def get_training_job(place: JobReader, session: ReadSession) -> TrainingJob:
    """Return a job with its series, and the last lines of its log if it has failed."""
    job = await service.get_job(session, place.workspace_id, place.job_id)
    points = await service.points(session, job.id)
    last = await service.last_lines(session, job) if job.status == Status.FAILED else []
    return job_view(job, await service.creator(session, job), points, last)


@router.post("/{job_id}/cancel")
async def cancel_training_job(place: Member, job_id: JobId, session: WriteSession) -> TrainingJob:
    """End a queued job at once, and a running one after its step, with a checkpoint."""
    job = await service.cancel_job(session, place.workspace_id, job_id)
    return job_view(job, await service.creator(session, job))


@router.post(
    "/{job_id}/retry",
    status_code=201,
    responses={200: {"model": TrainingJob, "description": "The job of this idempotency key"}},
)
async def retry_training_job(
    place: Member,
    job_id: JobId,
    response: Response,
    database: InDatabase,
    engine: InEngine,
    wish: RetryRequest | None = None,
    idempotency_key: IdempotencyKey = None,
) -> TrainingJob:
    """Queue a new job that repeats this one from its newest checkpoint; no body is needed.

    `start_step` says where it begins. One whose checkpoints have all expired is a 409, unless it
    may start over.
    """
    job, new = await repetition.retry_job(
        place,
        job_id,
        idempotency_key,
        from_start=wish is not None and wish.from_start,
        database=database,
        engine=engine,
    )
    response.status_code = 201 if new else 200
    async with database.reading() as session:
        return job_view(job, await service.creator(session, job))


@router.get("/{job_id}/logs")
async def get_training_job_logs(
    place: JobReader,
    session: ReadSession,
    after: Annotated[int, Query(ge=0, le=2**31 - 1, description="Lines behind this cursor")] = 0,
    level: Annotated[Level, Query(description="The least level")] = "debug",
    since: Annotated[TimestampInput | None, Query(description="Lines from then on")] = None,
    tail: Annotated[int | None, Query(ge=1, le=10_000, description="Only the last lines")] = None,
    query: Annotated[str | None, Query(max_length=200, pattern=r"^[^\x00]+$")] = None,
) -> LogPage:
    """Return the log of a job, oldest line first; without `tail`, at most 10,000 lines."""
    job: Job = await service.get_job(session, place.workspace_id, place.job_id)
    statement = select(Event).where(
        Event.job_id == job.id, Event.number > after, Event.message.is_not(None)
    )
    if level != "debug":
        statement = statement.where(Event.level.in_(LEVELS[LEVELS.index(level) :]))
    if since is not None:
        statement = statement.where(Event.created_at >= since)
    if query is not None:
        statement = statement.where(Event.message.icontains(query, autoescape=True))
    order = Event.number.desc() if tail is not None else Event.number
    found = (await session.scalars(statement.order_by(order).limit(tail or 10_000))).all()
    lines = found[::-1] if tail is not None else found
    return LogPage(items=[log_view(each) for each in lines])


@router.get("/{job_id}/artifacts")
async def get_training_job_artifacts(place: JobReader, session: ReadSession) -> Artifacts:
    """Return what a job has made so far."""
    job = await service.get_job(session, place.workspace_id, place.job_id)
    return Artifacts(artifacts=job.artifacts)
