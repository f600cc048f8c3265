"""What the end of a sandbox means for its job, sorted by whose fault it is."""

import re

from sqlalchemy.ext.asyncio import AsyncSession

from dreadnode_api.jobs import queue
from dreadnode_api.jobs.records import record
from dreadnode_api.models.jobs import ENDED, Job, Status
from dreadnode_api.sandbox.runner import Exited, Lost
from dreadnode_api.settings import Settings

AGAIN = 75
"""The exit code that says: something else's fault, try again (`EX_TEMPFAIL`)."""

LIMITS = {
    "memory": "It used more memory than the {job_memory_bytes:,} bytes that a job may use",
    "cpu_time": "It used more than the {job_cpu_seconds:,} seconds of processor time it may",
    "wall_time": "It ran for longer than the {job_wall_seconds:,} seconds that a job may run",
    "disk": "It wrote more than the {job_disk_bytes:,} bytes that a job may keep on the disk",
    "processes": "It started more than the {job_processes:,} processes that a job may have",
}

_KEYS = re.compile(r"\b(dnj?_[\w-]{43}|tml-[\w.-]{8,})")


async def settle(
    session: AsyncSession,
    job: Job,
    end: Exited | Lost,
    *,
    settings: Settings,
    told_to_stop: bool,
    output: list[str],
) -> None:
    """Bring a locked job, whose sandbox is gone, to the state that is true now.

    Args:
        session: the transaction in which the job is locked.
        job: the job.
        end: how its sandbox ended.
        settings: the limits that held, and how often a job is tried.
        told_to_stop: whether the dispatcher itself asked the sandbox to stop.
        output: the last lines that it printed.
    """
    if job.status in ENDED:
        queue.release(job)
        return
    if job.cancel_requested_at is not None:
        await queue.finish(session, job, Status.CANCELLED, code=None)
        return
    reason = end.reason if isinstance(end, Exited) else None
    if reason in LIMITS:
        sentence = LIMITS[reason].format_map(_Bounds(settings))
        await _fail(session, job, sentence, f"{reason}_exceeded", output)
    elif reason in ("stopped", "killed", "orphaned") or told_to_stop:
        await queue.requeue(session, job, "the dispatcher stopped", fault=False)
    elif isinstance(end, Lost):
        await _again(session, job, "its sandbox was lost", settings, output)
    elif end.code == AGAIN:
        why = job.phase_reason or "something that it needs was away for too long"
        await _again(session, job, why, settings, output)
    elif end.code < 0:
        await _again(
            session, job, f"its sandbox was killed by signal {-end.code}", settings, output
        )
    elif end.code == 0:
        sentence = "The sandbox ended without reporting how the job went"
        await _fail(session, job, sentence, "ended_without_report", output)
    else:
        sentence = f"The sandbox ended with code {end.code} and did not say why; see the log"
        await _fail(session, job, sentence, "sandbox_failed", output)


class _Bounds(dict[str, int]):
    """The limits by name, for the sentences above."""

    def __init__(self, settings: Settings) -> None:
        super().__init__()
        self._settings = settings

    def __missing__(self, name: str) -> int:
        bound: int = getattr(self._settings, name)
        return bound


async def _fail(
    session: AsyncSession, job: Job, sentence: str, code: str, output: list[str]
) -> None:
    _quote(session, job, output)
    await queue.finish(session, job, Status.FAILED, error=sentence, code=code)


async def _again(
    session: AsyncSession, job: Job, why: str, settings: Settings, output: list[str]
) -> None:
    """Try again, unless that was done often enough."""
    _quote(session, job, output)
    if job.faults + 1 >= settings.attempts:
        job.faults += 1
        sentence = f"Given up after {job.faults} attempts that ended by no fault of the job: {why}"
        await queue.finish(session, job, Status.FAILED, error=sentence, code="attempts_used_up")
        return
    wait = settings.retry_seconds * 2**job.faults
    await queue.requeue(session, job, why, wait=wait)


def _quote(session: AsyncSession, job: Job, output: list[str]) -> None:
    if output:
        lines = [_KEYS.sub("***", line)[:500] for line in output]
        message = "The last lines that the sandbox printed:\n" + "\n".join(lines)
        record(session, job, "log", message, level="error", data={"attempt": job.attempt})
