"""Finishes the checks that take too long for a request: the job waits in the phase `validating`.

The job is in the queue, and no dispatcher claims it in this phase. When the check passes, the job
waits for capacity like any other; otherwise it fails with the message that the request would have
got. A check belongs to one process of the API at a time. If that process ends, another one takes
over, or the same one after its restart.
"""

import asyncio
import contextlib
import logging
from collections.abc import Iterable
from datetime import timedelta
from typing import Any

from sqlalchemy import delete, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from dreadnode_api.db import Database, clock
from dreadnode_api.errors import ApiError
from dreadnode_api.jobs.records import end_job, release
from dreadnode_api.models.base import new_id
from dreadnode_api.models.checks import Validation
from dreadnode_api.models.jobs import ENDED, VALIDATING, Job, Status
from dreadnode_api.pricing.budget import STOPPED_BY, reserve
from dreadnode_api.settings import Settings
from dreadnode_api.training.check_request import CheckRequest
from dreadnode_api.training.checker import CheckFailed, CheckResult
from dreadnode_api.training.job_report import job_report
from dreadnode_api.training.preflight import Preflight, RunningCheck

log = logging.getLogger(__name__)

REASON = "the data is being checked"


class Validator:
    """Runs the checks of jobs in the phase `validating`."""

    def __init__(self, settings: Settings, database: Database, preflight: Preflight) -> None:
        self._lease = timedelta(seconds=settings.lease_seconds)
        self._poll_seconds = settings.poll_seconds
        self._database = database
        self._preflight = preflight
        self._owner = new_id()
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._checks: dict[str, tuple[CheckRequest, RunningCheck]] = {}

    async def add(
        self, session: AsyncSession, job: Job, request: CheckRequest, sources: list[dict[str, Any]]
    ) -> None:
        """Record in the transaction that creates JOB that its check is still running."""
        until = await clock(session) + self._lease
        row = Validation(
            job_id=job.id,
            request=request.to_json(),
            sources=sources,
            owner=self._owner,
            owner_until=until,
        )
        session.add(row)

    def start(self, job_id: str, request: CheckRequest, sources: list[dict[str, Any]]) -> None:
        """Wait for the check of a job that `add` has recorded."""
        # Joined here and not in the task, so that the check has a caller all the time.
        running = self._preflight.join(request)
        self._preflight.move_to_background(request, running)
        self._checks[job_id] = request, running
        task = asyncio.create_task(self._validate(job_id, request, running, sources))
        self._tasks[job_id] = task
        task.add_done_callback(lambda _: self._drop(job_id))

    async def run(self) -> None:
        """Take over the checks of other processes that have ended, until this is cancelled."""
        while True:
            try:
                await self._poll()
            except Exception:
                log.exception("the jobs that are being validated cannot be read right now")
            await asyncio.sleep(self._poll_seconds)

    async def close(self) -> None:
        """Stop waiting; another process takes over."""
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        with contextlib.suppress(Exception):
            async with self._database.writing() as session:
                await session.execute(
                    update(Validation)
                    .where(Validation.owner == self._owner)
                    .values(owner_until=await clock(session))
                )

    async def _poll(self) -> None:
        recorded = set(self._tasks)
        async with self._database.reading() as session:
            at = await clock(session)
            rows = (await session.scalars(select(Validation))).all()
            self._end_deleted(recorded - {row.job_id for row in rows})
            if not rows:
                return
            waiting = select(Job.id).where(Job.id.in_([row.job_id for row in rows]))
            alive = set(await session.scalars(waiting.where(Job.status == Status.QUEUED)))
        for row in rows:
            task = self._tasks.get(row.job_id)
            if row.job_id not in alive:
                # Somebody has cancelled the job; the check ends with its last caller.
                if task is not None:
                    task.cancel()
                await self._delete(row.job_id)
            elif task is None and row.owner_until < at and await self._take_over(row):
                self.start(row.job_id, CheckRequest.from_json(row.request), row.sources)
        for request, running in self._checks.values():
            self._preflight.move_to_background(request, running)
        if self._tasks:
            async with self._database.writing() as session:
                until = await clock(session) + self._lease
                own = Validation.job_id.in_(list(self._tasks)), Validation.owner == self._owner
                await session.execute(update(Validation).where(*own).values(owner_until=until))

    def _end_deleted(self, job_ids: Iterable[str]) -> None:
        """End the checks of jobs that were deleted right after they had been cancelled."""
        for job_id in job_ids:
            check = self._checks.get(job_id)
            # A task whose check is done has deleted the row itself, and is about to end.
            if check is not None and not check[1].task.done():
                self._tasks[job_id].cancel()

    def _drop(self, job_id: str) -> None:
        del self._tasks[job_id], self._checks[job_id]

    async def _take_over(self, row: Validation) -> bool:
        async with self._database.writing() as session:
            until = await clock(session) + self._lease
            taken = await session.execute(
                update(Validation)
                .where(
                    Validation.job_id == row.job_id,
                    Validation.owner == row.owner,
                    Validation.owner_until == row.owner_until,
                )
                .values(owner=self._owner, owner_until=until)
                .returning(Validation.job_id)
            )
            return taken.first() is not None

    async def _delete(self, job_id: str) -> None:
        async with self._database.writing() as session:
            await session.execute(delete(Validation).where(Validation.job_id == job_id))

    async def _validate(
        self,
        job_id: str,
        request: CheckRequest,
        running: RunningCheck,
        sources: list[dict[str, Any]],
    ) -> None:
        result: CheckResult | None = None
        error = ""
        try:
            result = await running.result()
        except CheckFailed:
            log.exception("the check of job %s failed", job_id, extra={"job_id": job_id})
            error = "The check of the data failed; the server's log has the reason"
        except Exception:
            # Such as a full queue; the job stays, and is taken over when the lease expires.
            log.exception("job %s cannot be validated right now", job_id, extra={"job_id": job_id})
            return
        finally:
            self._preflight.leave(request, running)
        await self._finish(job_id, result, error, sources)

    async def _finish(
        self,
        job_id: str,
        result: CheckResult | None,
        error: str,
        sources: list[dict[str, Any]],
    ) -> None:
        async with self._database.writing() as session:
            owned = await session.execute(
                delete(Validation)
                .where(Validation.job_id == job_id, Validation.owner == self._owner)
                .returning(Validation.job_id)
            )
            if owned.first() is None:
                return  # Another process took over.
            job = await session.get(Job, job_id, with_for_update=True, populate_existing=True)
            if job is None or job.status in ENDED or job.phase != VALIDATING:
                return
            if result is None or result.report is None:
                message = error if result is None else str(result.error)
                code = "check_failed" if result is None else "invalid_data"
                await end_job(session, job, Status.FAILED, error=message, code=code)
                return
            job.preflight = job_report(job, result.report, sources)
            try:
                await reserve(session, job)
            except ApiError as refusal:
                await end_job(session, job, Status.FAILED, error=str(refusal), code=STOPPED_BY)
                return
            await release(session, job)
