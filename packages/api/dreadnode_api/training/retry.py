"""Repeating an ended job, from where it can be gone on from."""

import hashlib

from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession

from dreadnode_api.auth.deps import WorkspaceScope
from dreadnode_api.checkpoints.resume_point import Remains, remains_of
from dreadnode_api.db import Database
from dreadnode_api.engine_client import EngineClient
from dreadnode_api.errors import Conflict
from dreadnode_api.jobs.records import record
from dreadnode_api.models.base import new_id
from dreadnode_api.models.jobs import Job, Points, Status
from dreadnode_api.training.checks import still_served
from dreadnode_api.training.service import enqueue, get_job, points, same_wish

FROM_START = Remains({}, step=0, let_go=False)


async def retry_job(
    place: WorkspaceScope,
    job_id: str,
    key: str | None,
    *,
    from_start: bool,
    database: Database,
    engine: EngineClient,
) -> tuple[Job, bool]:
    """Return a new queued job that repeats an ended one, or that of the same key, and which.

    It goes on from the newest checkpoint that is left of the job that it repeats; of one that
    never had any, or with `from_start`, it starts over.

    Raises:
        Conflict: the job has not ended, or is complete, or has lost its checkpoints, or the key
            was used for something else.
        Invalid: the engine cannot train its model any more.
        NotFound: there is no such job.
    """
    wish = f"retry {job_id}" + (" from start" if from_start else "")
    digest = hashlib.sha256(wish.encode()).hexdigest()
    if key is not None and (known := await same_wish(database, place, key, digest)):
        return known, False
    async with database.reading() as session:
        old = await _repeatable(session, place, job_id)
        await _beginning(session, old, from_start=from_start)
    still_served(old.trained_model, await engine.capabilities())
    try:
        async with database.writing() as session:
            old = await _repeatable(session, place, job_id)
            remains = await _beginning(session, old, from_start=from_start)
            return await _repeat(session, place, old, remains, key, digest), True
    except IntegrityError:
        known = await same_wish(database, place, key or "", digest)
        if known is None:
            raise
        return known, False


async def _repeatable(session: AsyncSession, place: WorkspaceScope, job_id: str) -> Job:
    old = await get_job(session, place.workspace_id, job_id)
    if old.status not in (Status.FAILED, Status.CANCELLED):
        raise Conflict(
            f"The job `{job_id}` is {old.status}; only a failed or cancelled job can be repeated"
        )
    return old


async def _beginning(session: AsyncSession, old: Job, *, from_start: bool) -> Remains:
    """Return what the repetition goes on from.

    Raises:
        Conflict: that was there once, and nobody has said that the steps may be taken again.
    """
    if from_start:
        return FROM_START
    remains = await remains_of(session, old)
    if remains.let_go:
        raise Conflict(
            f"All checkpoints of the job `{old.id}` have expired, so it would start over from "
            f"step 0; if you want that, say `dn train retry {old.id} --from-start`, or "
            "`from_start: true` in the request's body"
        )
    return remains


async def _repeat(
    session: AsyncSession,
    place: WorkspaceScope,
    old: Job,
    remains: Remains,
    key: str | None,
    digest: str,
) -> Job:
    names = (
        "lineage", "org_id", "workspace_id", "name", "backend", "trainer_type", "algorithm",
        "model", "trained_model", "rehearsal", "capability", "project_ref", "run_ref", "tags",
        "config", "preflight",
    )  # fmt: skip
    capability = old.artifacts.get("capability")
    job = Job(
        id=new_id(),
        retry_of=old.id,
        start_step=remains.step,
        idempotency_key=key,
        request_sha256=digest,
        created_by=place.caller.user_id,
        events=0,
        artifacts={"capability": capability} | remains.artifacts
        if capability
        else remains.artifacts,
        **{name: getattr(old, name) for name in names},
    )
    await enqueue(session, job)
    if remains.artifacts:
        # The series so far; the new job's start cuts them off at the checkpoint it goes on from.
        for each in await points(session, old.id):
            session.add(Points(job_id=job.id, number=each.number, step=each.step, lists=each.lists))
    job.events = max(job.events, old.events)
    record(
        session,
        job,
        "log",
        f"This job repeats `{old.id}` {_begins(remains)}",
        data={"retry_of": old.id, "start_step": remains.step},
    )
    return job


def _begins(remains: Remains) -> str:
    if not remains.artifacts:
        return "and starts over from step 0"
    if remains.step is None:
        return "and goes on from its newest checkpoint"
    return f"and goes on from the checkpoint of step {remains.step}"
