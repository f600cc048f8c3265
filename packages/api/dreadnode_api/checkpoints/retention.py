"""Deletes checkpoints, by number and by the age of their job, but never the final or best one.

The newest checkpoint of a job without a final one stays, too: a retry resumes from it.

The row is set to `expired` first. Then the engine deletes the checkpoint, and is asked again until
it has, so that a checkpoint which may be deleted is never shown as ready. The same task reads the
sizes of new checkpoints, which the sandbox does not know.
"""

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import groupby
from operator import attrgetter
from typing import Any

from sqlalchemy import ColumnElement, delete, func, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from dreadnode_api.checkpoints.in_use import paths_in_use
from dreadnode_api.db import Database
from dreadnode_api.engine_client import SCHEME, EngineClient
from dreadnode_api.models.base import now
from dreadnode_api.models.checkpoints import Checkpoint, DeletedCheckpoint, State
from dreadnode_api.models.jobs import Job
from dreadnode_api.settings import Settings

log = logging.getLogger(__name__)

BATCH = 200


@dataclass(frozen=True, slots=True)
class Candidate:
    """A checkpoint that may expire.

    Attributes:
        lineage: the first job of the chain of retries, all of which may resume from it.
        ended_at: when the last job of the lineage ended; None if one has not ended.
        has_final: whether the lineage has a final checkpoint.
    """

    job_id: str
    path: str
    lineage: str
    created_at: datetime
    ended_at: datetime | None
    has_final: bool


def select_expired(
    candidates: Iterable[Candidate], kept: int, before: datetime | None
) -> list[Candidate]:
    """Return the candidates that expire.

    Args:
        candidates: checkpoints of any lineages.
        kept: how many of the newest of a lineage to keep; 0 keeps all.
        before: checkpoints of lineages that ended before this time expire; None keeps all.
    """
    found = []
    in_order = sorted(candidates, key=attrgetter("lineage", "created_at"), reverse=True)
    for _, family in groupby(in_order, key=attrgetter("lineage")):
        # A retry lists the checkpoint that it started from again; its newest entry counts.
        expires: dict[str, bool] = {}
        for each in family:
            if each.path not in expires:
                newest, too_many = not expires, 0 < kept <= len(expires)
                ended = each.ended_at
                too_old = before is not None and ended is not None and ended < before
                # An unfinished job resumes from its newest checkpoint after a failure.
                stays = newest and (ended is None or not each.has_final)
                expires[each.path] = (too_many or too_old) and not stays
            if expires[each.path]:
                found.append(each)
    return found


async def expire_old(database: Database, settings: Settings) -> int:
    """Mark old checkpoints as expired, and return how many."""
    if not settings.checkpoints_kept and not settings.checkpoint_days:
        return 0
    async with database.reading() as session:
        rows = (
            await session.execute(
                select(Checkpoint.job_id, Checkpoint.path, Job.lineage, Checkpoint.created_at)
                .join(Job, Job.id == Checkpoint.job_id)
                .where(
                    Checkpoint.state == State.READY,
                    Checkpoint.kind == "training",
                    Checkpoint.is_best.is_(False),
                    Checkpoint.is_final.is_(False),
                )
            )
        ).all()
        ended = await _ended_lineages(session, {row.lineage for row in rows})
        final = select(Job.lineage).join(Checkpoint, Checkpoint.job_id == Job.id)
        complete = set(await session.scalars(final.where(Checkpoint.is_final)))
    candidates = [
        Candidate(job, path, line, at, ended.get(line), line in complete)
        for job, path, line, at in rows
    ]
    days = settings.checkpoint_days
    before = now() - timedelta(days=days) if days else None
    expired = select_expired(candidates, settings.checkpoints_kept, before)
    async with database.writing() as session:
        used = await paths_in_use(session)
        expired = [each for each in expired if each.path not in used]
        for each in expired:
            await session.execute(
                update(Checkpoint)
                .where(
                    Checkpoint.job_id == each.job_id,
                    Checkpoint.path == each.path,
                    # It may have become the best one since it was read.
                    Checkpoint.is_best.is_(False),
                    Checkpoint.is_final.is_(False),
                )
                .values(state=State.EXPIRED, expired_at=now())
            )
    return len(expired)


async def _ended_lineages(session: AsyncSession, lineages: Iterable[str]) -> dict[str, datetime]:
    """Return when the last job of each lineage ended, for those whose jobs have all ended."""
    wanted = sorted(lineages)
    found: dict[str, datetime] = {}
    for start in range(0, len(wanted), BATCH):
        jobs = await session.execute(
            select(Job.lineage, func.max(Job.completed_at))
            .where(Job.lineage.in_(wanted[start : start + BATCH]))
            .group_by(Job.lineage)
            .having(func.count(Job.completed_at) == func.count())
        )
        found |= {lineage: at for lineage, at in jobs if at is not None}
    return found


async def delete_expired(database: Database, engine: EngineClient) -> int:
    """Delete expired checkpoints, and those of deleted jobs, on the engine; return how many."""
    expired = (Checkpoint.state == State.EXPIRED, Checkpoint.deleted_at.is_(None))
    rows: list[Checkpoint | DeletedCheckpoint] = [*await _rows(database, *expired)]
    async with database.reading() as session:
        rows += await session.scalars(select(DeletedCheckpoint).limit(BATCH))
    deleted = 0
    for row in rows:
        if row.path.startswith(SCHEME) and not await engine.delete_checkpoint(row.path):
            log.warning("the engine does not delete %s; the request is repeated later", row.path)
            continue
        async with database.writing() as session:
            if isinstance(row, Checkpoint):
                await _update(session, row, deleted_at=now())
            else:
                of_deleted_job = DeletedCheckpoint.path == row.path
                await session.execute(delete(DeletedCheckpoint).where(of_deleted_job))
        deleted += 1
    return deleted


async def record_sizes(database: Database, engine: EngineClient) -> int:
    """Record the sizes of new checkpoints, and return how many."""
    unknown = (Checkpoint.state == State.READY, Checkpoint.bytes.is_(None))
    rows = [row for row in await _rows(database, *unknown) if row.path.startswith(SCHEME)]
    sizes: dict[str, int] = {}
    for run in sorted({row.path.removeprefix(SCHEME).partition("/")[0] for row in rows}):
        sizes |= await engine.checkpoint_sizes(run)
    measured = [row for row in rows if row.path in sizes]
    async with database.writing() as session:
        for row in measured:
            await _update(session, row, bytes=sizes[row.path])
    return len(measured)


async def _update(session: AsyncSession, row: Checkpoint, **values: Any) -> None:
    await session.execute(
        update(Checkpoint)
        .where(Checkpoint.job_id == row.job_id, Checkpoint.path == row.path)
        .values(**values)
    )


async def _rows(database: Database, *where: ColumnElement[bool]) -> Sequence[Checkpoint]:
    async with database.reading() as session:
        statement = select(Checkpoint).where(*where).order_by(Checkpoint.created_at.desc())
        return (await session.scalars(statement.limit(BATCH))).all()
