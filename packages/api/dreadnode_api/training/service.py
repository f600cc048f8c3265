"""Creating, reading and cancelling jobs, as functions of a session."""

import hashlib
from collections.abc import Sequence
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession

from dreadnode_api.auth.deps import WorkspaceScope
from dreadnode_api.blob_store import BlobStore
from dreadnode_api.capabilities import service as capabilities
from dreadnode_api.db import Database
from dreadnode_api.engine_client import EngineClient
from dreadnode_api.errors import Conflict, Invalid, NotFound
from dreadnode_api.jobs.records import end, lock, move, record, set_phase
from dreadnode_api.models.auth import User
from dreadnode_api.models.base import new_id, now
from dreadnode_api.models.capabilities import CapabilityVersion
from dreadnode_api.models.jobs import ENDED, Event, Job, Points, Status, Tally
from dreadnode_api.settings import Settings
from dreadnode_api.training.checks import known_model, resolved, served, supported
from dreadnode_api.training.data import named
from dreadnode_api.training.preflight import Preflight
from dreadnode_api.training.schemas import JobRequest, RlJobRequest, SftJobRequest
from dreadnode_api.training.tracking import tracked

QUEUED_REASON = "in the queue"
LAST_LINES = 10


async def create_job(
    place: WorkspaceScope,
    request: JobRequest,
    key: str | None,
    *,
    database: Database,
    engine: EngineClient,
    store: BlobStore,
    preflight: Preflight,
    settings: Settings,
) -> tuple[Job, bool]:
    """Return a new queued job, or that of the same idempotency key, and whether it is new.

    The order is the promise: catalog, algorithm, engine, references, limits, data. Until all
    have agreed nothing is written, and no transaction is open while anyone else is asked.

    Raises:
        ApiError: the first of them that refuses.
    """
    digest = hashlib.sha256(request.model_dump_json().encode()).hexdigest()
    if key is not None and (known := await same_wish(database, place, key, digest)):
        return known, False
    model = known_model(request)
    request = supported(request, model)
    trained = served(request, model, await engine.capabilities())
    async with database.reading() as session:
        capability = await _capability(session, place, request)
        data = await named(session, place.org_id, request, store)
    config = {**resolved(request, model, trained), **data.splits}
    config |= tracked(request.config.track, request.config.track_project, settings)
    if capability is not None:
        config["system_prompt"] = capability.prompt
    report = await preflight.check(
        {
            "model": request.model_id,
            "rehearsal": request.rehearse,
            "trained_model": trained.model_name,
            "tokenizer": trained.tokenizer_id or model.tokenizer_id,
            "trainer_type": request.trainer_type,
            "config": config,
            "datasets": data.files,
        }
    )
    report["datasets"] = data.read
    job = _job(place, request, trained.model_name, config, report)
    if capability is not None:
        name, version = capability.name, capability.version
        job.capability = {"name": name, "version": version, "artifact_id": capability.id}
        job.artifacts = {"capability": f"{place.caller.org_slug}/{name}@{version}"}
    job.idempotency_key, job.request_sha256 = key, digest
    try:
        async with database.writing() as session:
            await enqueue(session, job)
    except IntegrityError:
        # Another request with the same key was faster between our look and our write.
        known = await same_wish(database, place, key or "", digest)
        if known is None:
            raise
        return known, False
    return job, True


async def enqueue(session: AsyncSession, job: Job) -> None:
    """Put a new job into the queue, which is its table."""
    session.add(job)
    await session.flush()  # before the events that refer to it
    await move(session, job, Status.QUEUED, new=True)
    record(session, job, "status", data={"status": Status.QUEUED.value, "attempt": 0})
    set_phase(session, job, "waiting for capacity", QUEUED_REASON)


async def same_wish(database: Database, place: WorkspaceScope, key: str, digest: str) -> Job | None:
    """Return the job that was made under an idempotency key, if there is one.

    Raises:
        Conflict: it was made for a wish of another `digest`.
    """
    async with database.reading() as session:
        known: Job | None = await session.scalar(
            select(Job).where(Job.workspace_id == place.workspace_id, Job.idempotency_key == key)
        )
    if known is not None and known.request_sha256 != digest:
        raise Conflict(
            f"The idempotency key `{key}` was used for another job, `{known.id}`; "
            "take a new key for a new wish"
        )
    return known


async def _capability(
    session: AsyncSession, place: WorkspaceScope, request: SftJobRequest | RlJobRequest
) -> CapabilityVersion | None:
    """Return the capability whose prompt the job gets.

    Raises:
        Invalid: it does not exist or has no prompt, or the config holds another.
    """
    ref = request.capability_ref
    if ref is None:
        return None
    found = await capabilities.for_job(session, place.org_id, ref.name, ref.version)
    if found is not None and request.config.system_prompt is not None:
        raise Invalid(
            "`capability_ref` and `system_prompt` both name the system prompt; give one of them",
            "capability_ref",
        )
    return found


def _job(
    place: WorkspaceScope,
    request: SftJobRequest | RlJobRequest,
    trained_model: str,
    config: dict[str, Any],
    report: dict[str, Any],
) -> Job:
    job_id = new_id()
    return Job(
        id=job_id,
        lineage=job_id,
        org_id=place.org_id,
        workspace_id=place.workspace_id,
        created_by=place.caller.user_id,
        name=request.name,
        backend=request.backend,
        trainer_type=request.trainer_type,
        algorithm=request.config.algorithm if isinstance(request, RlJobRequest) else None,
        model=request.model_id,
        trained_model=trained_model,
        rehearsal=request.rehearse,
        project_ref=request.project_ref,
        run_ref=request.run_ref,
        tags=list(request.tags),
        config=config,
        preflight=report,
        events=0,
    )


async def get_job(session: AsyncSession, workspace_id: str, job_id: str) -> Job:
    """Return a job.

    Raises:
        NotFound: there is none of this id in the workspace.
    """
    job = await session.get(Job, job_id)
    if job is None or job.workspace_id != workspace_id:
        raise NotFound(f"There is no job `{job_id}` in this workspace; see `dn train list`")
    return job


async def creator(session: AsyncSession, job: Job) -> User | None:
    """Return who made a job."""
    return await session.get(User, job.created_by) if job.created_by else None


async def points(session: AsyncSession, job_id: str) -> Sequence[Points]:
    """Return the series of a job, in order."""
    found = await session.scalars(
        select(Points).where(Points.job_id == job_id).order_by(Points.number)
    )
    return found.all()


async def last_lines(session: AsyncSession, job: Job) -> list[str]:
    """Return the last lines of a job's log, oldest first."""
    found = await session.scalars(
        select(Event.message)
        .where(Event.job_id == job.id, Event.message.is_not(None))
        .order_by(Event.number.desc())
        .limit(LAST_LINES)
    )
    return [message for message in reversed(found.all()) if message is not None]


async def list_jobs(
    session: AsyncSession,
    workspace_id: str,
    filters: dict[str, str | None],
    page: int,
    page_size: int,
) -> tuple[Sequence[tuple[Job, User | None]], int]:
    """Return a page of jobs, newest first, with their creators, and how many there are."""
    where = [Job.workspace_id == workspace_id]
    where += [getattr(Job, name) == value for name, value in filters.items() if value is not None]
    total = await _count(session, workspace_id, filters)
    # The pages before this one are passed over in the index alone, without reading their jobs.
    ids = (
        select(Job.id)
        .where(*where)
        .order_by(Job.id.desc())
        .offset((page - 1) * page_size)
        .limit(page_size)
        .subquery()
    )
    found = await session.execute(
        select(Job, User)
        .join(ids, ids.c.id == Job.id)
        .outerjoin(User, User.id == Job.created_by)
        .order_by(Job.id.desc())
    )
    return [(job, user) for job, user in found], total or 0


async def _count(session: AsyncSession, workspace_id: str, filters: dict[str, str | None]) -> int:
    """Return how many jobs pass `filters`: by their tallies, unless a project is named."""
    given = {name: value for name, value in filters.items() if value is not None}
    if "project_ref" in given:
        statement = select(func.count()).select_from(Job).where(Job.workspace_id == workspace_id)
        statement = statement.where(*(getattr(Job, n) == value for n, value in given.items()))
    else:
        statement = select(func.sum(Tally.number)).where(Tally.workspace_id == workspace_id)
        statement = statement.where(*(getattr(Tally, n) == value for n, value in given.items()))
    return int(await session.scalar(statement) or 0)


async def cancel_job(session: AsyncSession, workspace_id: str, job_id: str) -> Job:
    """End a queued job at once; ask a running one to stop after its step.

    Raises:
        Conflict: the job has ended.
        NotFound: there is no such job.
    """
    job = await lock(session, (await get_job(session, workspace_id, job_id)).id)
    if job.status in ENDED:
        raise Conflict(f"The job `{job_id}` is {job.status} already and cannot be cancelled")
    if job.cancel_requested_at is None:
        job.cancel_requested_at = now()
        if job.status == Status.QUEUED:
            await end(session, job, Status.CANCELLED)
        else:
            set_phase(session, job, "cancelling", "the loop stops after its step")
    return job
