"""What the end of a sandbox means for its job: a failure of the job or of the infrastructure."""

import re

from sqlalchemy.ext.asyncio import AsyncSession

from dreadnode_api.jobs import queue
from dreadnode_api.jobs.records import record_event
from dreadnode_api.models.jobs import ENDED, Job, Status
from dreadnode_api.sandbox.runner import Exited, Lost
from dreadnode_api.settings import Settings

TRY_AGAIN = 75
"""The exit code of a sandbox that failed for another reason than its job (`EX_TEMPFAIL`)."""

STOPPED = ("stopped", "killed", "orphaned")
LIMITS = {
    "memory": "It used more than the {0.job_memory_bytes:,} bytes of memory that a job may use",
    "cpu_time": "It used more than the {0.job_cpu_seconds:,} seconds of CPU time that a job may "
    "use",
    "wall_time": "It ran longer than the {0.job_wall_seconds:,} seconds that a job may run",
    "disk": "It wrote more than the {0.job_disk_bytes:,} bytes that a job may have on disk",
    "processes": "It started more than the {0.job_processes:,} processes that a job may have",
}

_SECRETS = re.compile(r"\b(dnj?_[\w-]{43}|tml-[\w.-]{8,})")


async def apply_exit_outcome(
    session: AsyncSession,
    job: Job,
    outcome: Exited | Lost,
    *,
    settings: Settings,
    stop_requested: bool,
    output: list[str],
) -> None:
    """Update a locked job after its sandbox has ended.

    Args:
        session: the transaction in which the job is locked.
        job: the job.
        outcome: how its sandbox ended.
        settings: the limits of a job, and how many attempts it has.
        stop_requested: whether the dispatcher asked the sandbox to stop.
        output: the last lines that the sandbox printed.
    """
    if job.status in ENDED:
        queue.release(job)
        return
    if job.cancel_requested_at is not None:
        await queue.finish(session, job, Status.CANCELLED, code=None)
        return
    reason = outcome.reason if isinstance(outcome, Exited) else None
    if reason not in LIMITS and (reason in STOPPED or stop_requested):
        await queue.requeue(session, job, "the dispatcher stopped", is_failure=False)
        return
    _log_output(session, job, output)
    if reason in LIMITS:
        await _fail(session, job, LIMITS[reason].format(settings), f"{reason}_exceeded")
    elif isinstance(outcome, Lost):
        await _retry(session, job, "its sandbox was lost", settings)
    elif outcome.code == TRY_AGAIN:
        why = job.phase_reason or "a service that it needs was unavailable for too long"
        await _retry(session, job, why, settings)
    elif outcome.code < 0:
        why = f"its sandbox was killed by signal {-outcome.code}"
        await _retry(session, job, why, settings)
    elif outcome.code == 0:
        message = "The sandbox ended without reporting a result"
        await _fail(session, job, message, "ended_without_report")
    else:
        message = (
            f"The sandbox ended with code {outcome.code} without reporting a reason; see the log"
        )
        await _fail(session, job, message, "sandbox_failed")


async def _fail(session: AsyncSession, job: Job, message: str, code: str) -> None:
    await queue.finish(session, job, Status.FAILED, error=message, code=code)


async def _retry(session: AsyncSession, job: Job, why: str, settings: Settings) -> None:
    """Queue the job for another attempt, unless it has used all of them."""
    if job.infrastructure_failures + 1 >= settings.attempts:
        job.infrastructure_failures += 1
        message = f"Failed after {job.infrastructure_failures} infrastructure failures: {why}"
        await _fail(session, job, message, "attempts_used_up")
        return
    wait = settings.retry_seconds * 2**job.infrastructure_failures
    await queue.requeue(session, job, why, wait=wait)


def _log_output(session: AsyncSession, job: Job, output: list[str]) -> None:
    if output:
        lines = [_SECRETS.sub("***", line)[:500] for line in output]
        message = "The last lines that the sandbox printed:\n" + "\n".join(lines)
        record_event(session, job, "log", message, level="error", data={"attempt": job.attempt})
