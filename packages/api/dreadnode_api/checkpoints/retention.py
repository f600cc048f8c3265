"""How long checkpoints are kept: by number and by age, never the final one nor the best one.

First a row is `expired`, then the engine is asked to delete what it names, and asked again until it
has: a checkpoint is never shown as ready that may be gone. On the way the sizes of new ones are
read, which the sandbox does not know.
"""

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import groupby
from operator import attrgetter
from urllib.parse import quote

import httpx
from sqlalchemy import ColumnElement, select, update

from dreadnode_api.db import Database
from dreadnode_api.models.base import now
from dreadnode_api.models.checkpoints import Checkpoint, State
from dreadnode_api.models.jobs import ENDED, Job
from dreadnode_api.settings import Settings

log = logging.getLogger(__name__)

SCHEME = "tinker://"
BATCH = 200
GONE = (204, 200, 404)


@dataclass(frozen=True, slots=True)
class Held:
    """A checkpoint that may expire.

    Attributes:
        lineage: the first job of the chain of retries, all of which may go on from it.
        is_needed: whether a job of the lineage has not ended.
    """

    job_id: str
    path: str
    lineage: str
    created_at: datetime
    is_needed: bool


def beyond(held: Iterable[Held], kept: int, before: datetime | None) -> list[Held]:
    """Return the checkpoints that need not be kept.

    Args:
        held: those that may expire, of any lineages.
        kept: how many of a lineage to keep, the newest; 0 keeps all.
        before: those made before this moment are too old; None keeps all.
    """
    found = []
    in_order = sorted(held, key=attrgetter("lineage", "created_at"), reverse=True)
    for _, family in groupby(in_order, key=attrgetter("lineage")):
        # A repetition lists the checkpoint that it began with once more: its newest entry counts.
        goes: dict[str, bool] = {}
        for each in family:
            if each.path not in goes:
                newest, too_many = not goes, 0 < kept <= len(goes)
                too_old = before is not None and each.created_at < before
                # What an unfinished job goes on from after a fault is its newest.
                goes[each.path] = (too_many or too_old) and not (newest and each.is_needed)
            if goes[each.path]:
                found.append(each)
    return found


async def expire(database: Database, settings: Settings) -> int:
    """Mark what need not be kept any longer as expired, and return how many."""
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
        unfinished = select(Job.lineage).where(Job.status.not_in(ENDED))
        needed = set(await session.scalars(unfinished))
    held = [Held(job, path, line, made, line in needed) for job, path, line, made in rows]
    days = settings.checkpoint_days
    before = now() - timedelta(days=days) if days else None
    chosen = beyond(held, settings.checkpoints_kept, before)
    async with database.writing() as session:
        for each in chosen:
            await session.execute(
                update(Checkpoint)
                .where(
                    Checkpoint.job_id == each.job_id,
                    Checkpoint.path == each.path,
                    # It may have become the best one since we looked.
                    Checkpoint.is_best.is_(False),
                    Checkpoint.is_final.is_(False),
                )
                .values(state=State.EXPIRED, expired_at=now())
            )
    return len(chosen)


class EngineFiles:
    """The part of the engine's REST interface that manages checkpoints."""

    def __init__(
        self, url: str, key: str, *, transport: httpx.AsyncBaseTransport | None = None
    ) -> None:
        self._client = httpx.AsyncClient(
            base_url=f"{url}/api/v1", headers={"X-API-Key": key}, timeout=30, transport=transport
        )

    async def delete(self, path: str) -> bool:
        """Have the engine delete a checkpoint, and say whether it is gone.

        Raises:
            httpx.HTTPError: the engine does not answer.
        """
        run, _, name = path.removeprefix(SCHEME).partition("/")
        answer = await self._client.delete(f"/training_runs/{quote(run)}/checkpoints/{quote(name)}")
        return answer.status_code in GONE

    async def sizes(self, run: str) -> dict[str, int]:
        """Return the sizes in bytes of a run's checkpoints by their paths.

        Raises:
            httpx.HTTPError: the engine does not answer.
        """
        answer = await self._client.get(f"/training_runs/{quote(run)}/checkpoints")
        if answer.status_code != 200:
            return {}
        return {
            each["tinker_path"]: int(each["size_bytes"])
            for each in answer.json()["checkpoints"]
            if each.get("size_bytes") is not None
        }

    async def close(self) -> None:
        """Close the connections."""
        await self._client.aclose()


async def forget(database: Database, files: EngineFiles) -> int:
    """Have the engine delete what has expired, and return how many it did delete."""
    expired = (Checkpoint.state == State.EXPIRED, Checkpoint.deleted_at.is_(None))
    gone = 0
    for row in await _rows(database, *expired):
        if row.path.startswith(SCHEME) and not await files.delete(row.path):
            log.warning("the engine does not delete %s; it is asked again", row.path)
            continue
        async with database.writing() as session:
            await session.execute(
                update(Checkpoint)
                .where(Checkpoint.job_id == row.job_id, Checkpoint.path == row.path)
                .values(deleted_at=now())
            )
        gone += 1
    return gone


async def measure(database: Database, files: EngineFiles) -> int:
    """Read the sizes of checkpoints that have none yet, and return how many became known."""
    unknown = (Checkpoint.state == State.READY, Checkpoint.bytes.is_(None))
    rows = [row for row in await _rows(database, *unknown) if row.path.startswith(SCHEME)]
    known: dict[str, int] = {}
    for run in sorted({row.path.removeprefix(SCHEME).partition("/")[0] for row in rows}):
        known |= await files.sizes(run)
    measured = [row for row in rows if row.path in known]
    async with database.writing() as session:
        for row in measured:
            await session.execute(
                update(Checkpoint)
                .where(Checkpoint.job_id == row.job_id, Checkpoint.path == row.path)
                .values(bytes=known[row.path])
            )
    return len(measured)


async def _rows(database: Database, *where: ColumnElement[bool]) -> Sequence[Checkpoint]:
    async with database.reading() as session:
        statement = select(Checkpoint).where(*where).order_by(Checkpoint.created_at.desc())
        return (await session.scalars(statement.limit(BATCH))).all()
