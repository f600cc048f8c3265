"""The cleanup task of the dispatcher: it deletes old data and logs what it deleted."""

import asyncio
import logging
import shutil
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from typing import Any

from anyio import to_thread
from sqlalchemy import CursorResult, delete, or_, select, update

from dreadnode_api import logs, storage_errors
from dreadnode_api.blob_store import BlobStore
from dreadnode_api.checkpoints import adapters, retention
from dreadnode_api.db import Database
from dreadnode_api.engine_client import EngineClient
from dreadnode_api.errors import ApiError
from dreadnode_api.maintenance import blobs
from dreadnode_api.models.adapters import UploadedAdapter
from dreadnode_api.models.auth import BrowserSession, Token
from dreadnode_api.models.base import now
from dreadnode_api.models.checks import StoredCheck
from dreadnode_api.models.jobs import ENDED, Event, Job, StepRollouts
from dreadnode_api.models.webhooks import Delivery
from dreadnode_api.settings import Settings

log = logging.getLogger(__name__)

BATCH = 500


class Cleanup:
    """Deletes data that is older than the settings allow, until it is cancelled.

    Args:
        settings: how long each kind of data is kept, and how often to clean up.
        database: the database to clean up.
        engine: the engine, which holds the checkpoints; None if the server has none.
    """

    def __init__(self, settings: Settings, database: Database, engine: EngineClient | None) -> None:
        self._settings = settings
        self._database = database
        self._engine = engine
        # Jobs that ended before this time have no events left to delete.
        self._events_deleted_until: datetime | None = None

    async def run(self) -> None:
        """Clean up at intervals, for ever."""
        while True:
            try:
                done = {what: count for what, count in (await self.once()).items() if count}
                if done:
                    log.info("deleted: %s", ", ".join(f"{n} {w}" for w, n in done.items()))
            except Exception as error:
                storage_errors.log_failure(log, "the cleanup failed and is tried again", error)
            await asyncio.sleep(self._settings.tidy_seconds)

    async def once(self) -> dict[str, int]:
        """Delete all data that is old enough, and return how much of what."""
        settings = self._settings
        store = BlobStore(settings.data_dir / "blobs")
        done = {
            "log lines, events and rollouts": await self._events(settings.log_days),
            "idempotency keys": await self._older(settings.idempotency_days, _idempotency_keys),
            # The next job on the same data is checked again.
            "results of checks": await self._older(
                settings.idempotency_days,
                lambda before: delete(StoredCheck).where(StoredCheck.created_at < before),
            ),
            "webhook deliveries": await self._older(
                settings.delivery_days,
                lambda before: delete(Delivery).where(
                    or_(Delivery.delivered_at < before, Delivery.given_up_at < before)
                ),
            ),
            "tokens of ended jobs": await self._older(1, _job_tokens),
            "sessions of the console": await self._change(
                delete(BrowserSession).where(BrowserSession.expires_at < now())
            ),
            "uploaded adapters": await self._change(
                delete(UploadedAdapter).where(UploadedAdapter.expires_at < now())
            ),
            "sandbox folders": await self._folders(settings.sandbox_days),
            "checkpoints": await retention.expire_old(self._database, settings),
            "adapters of checkpoints": await adapters.delete_expired(
                self._database, store, settings.upload_days
            ),
            **await blobs.clean_up(self._database, store, settings.upload_days),
        }
        if self._engine is not None:
            try:
                done["checkpoints on the engine"] = await retention.delete_expired(
                    self._database, self._engine
                )
                await retention.record_sizes(self._database, self._engine)
            except (ApiError, KeyError, ValueError) as error:
                logs.trouble(
                    log, "engine", "the engine cannot be asked about checkpoints: %s", error
                )
        return done

    async def _events(self, days: float) -> int:
        """Delete events and rollouts of jobs that ended long ago, except changes of status."""
        if not days:
            return 0
        before, deleted = now() - timedelta(days=days), 0
        ended = [Job.completed_at < before]
        if self._events_deleted_until is not None:
            ended.append(Job.completed_at >= self._events_deleted_until)
        async with self._database.reading() as session:
            jobs = (await session.scalars(select(Job.id).where(*ended))).all()
        for start in range(0, len(jobs), BATCH):
            batch = jobs[start : start + BATCH]
            for old in (
                delete(Event).where(Event.job_id.in_(batch), Event.type != "status"),
                delete(StepRollouts).where(StepRollouts.job_id.in_(batch)),
            ):
                deleted += await self._change(old)
        self._events_deleted_until = before
        return deleted

    async def _older(self, days: float, statement: Callable[[datetime], Any]) -> int:
        """Execute a STATEMENT about what is older than DAYS, and return how much; 0 keeps all."""
        return await self._change(statement(now() - timedelta(days=days))) if days else 0

    async def _change(self, statement: Any) -> int:
        async with self._database.writing() as session:
            result = await session.execute(statement.execution_options(synchronize_session=False))
        return result.rowcount if isinstance(result, CursorResult) else 0

    async def _folders(self, days: float) -> int:
        """Delete the folders of jobs that ended long ago; a folder of an unknown job stays."""
        folder = self._settings.data_dir / "jobs"
        if not days or not folder.is_dir():
            return 0
        names = await to_thread.run_sync(lambda: sorted(each.name for each in folder.iterdir()))
        deleted = 0
        for start in range(0, len(names), BATCH):
            for job_id in await self._ended(names[start : start + BATCH], days):
                await to_thread.run_sync(shutil.rmtree, folder / job_id, True)
                deleted += 1
        return deleted

    async def _ended(self, ids: Sequence[str], days: float) -> Sequence[str]:
        before = now() - timedelta(days=days)
        old = (Job.status.in_(ENDED), Job.completed_at < before, Job.lease.is_(None))
        async with self._database.reading() as session:
            return (await session.scalars(select(Job.id).where(Job.id.in_(ids), *old))).all()


def _idempotency_keys(before: datetime) -> Any:
    old = (Job.idempotency_key.is_not(None), Job.created_at < before)
    # `updated_at` stays: this is not a change of the job.
    return update(Job).where(*old).values(idempotency_key=None, updated_at=Job.updated_at)


def _job_tokens(before: datetime) -> Any:
    invalid = or_(Token.revoked_at < before, Token.expires_at < before)
    return delete(Token).where(Token.job_id.is_not(None), invalid)
