"""The interface of a runner: what it starts, and what it reports about a sandbox."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

USAGE_FILE: Final = "usage.json"
"""The file in its working directory in which a sandbox keeps its token counts."""


@dataclass(frozen=True, slots=True)
class Sandbox:
    """One attempt at one job, to be started once.

    Attributes:
        environment: the complete environment of the process. It holds tokens, so it is never
            shown or logged.
        limits: what the process and its descendants may use, in seconds, bytes and counts; see
            `runtime_processes.environment.job_limits`.
        stop_grace: seconds between the request to stop and the kill.
        orphan_seconds: how long the process runs without the heartbeat of a dispatcher.
    """

    job_id: str
    attempt: int
    command: Sequence[str]
    environment: Mapping[str, str]
    limits: Mapping[str, int]
    stop_grace: float
    orphan_seconds: float

    def __repr__(self) -> str:
        return f"<Sandbox {self.job_id}/{self.attempt}>"


@dataclass(frozen=True, slots=True)
class Running:
    """The sandbox is running."""


@dataclass(frozen=True, slots=True)
class Exited:
    """The sandbox has ended, and none of its processes is left.

    Attributes:
        code: its exit code, or minus the signal that killed it.
        reason: why the supervisor ended it, if it did: `memory`, `cpu_time`, `wall_time`, `disk`,
            `processes`, `orphaned`, `stopped` (in the grace period) or `killed` (after it).
    """

    code: int
    reason: str | None = None


@dataclass(frozen=True, slots=True)
class Lost:
    """The sandbox does not exist, or its end was not recorded; none of its processes is left."""


State = Running | Exited | Lost


class RunnerUnavailable(Exception):
    """The runner does not answer, so the state of a sandbox is unknown; the message says why.

    Every call may be repeated. This never means that a sandbox has ended.
    """


class Runner(Protocol):
    """Starts and ends sandboxes. A sandbox is identified by its job and attempt.

    Every method may raise `RunnerUnavailable`.
    """

    async def start(self, sandbox: Sandbox) -> None:
        """Start `sandbox`, unless it was started before."""

    async def state(self, job_id: str, attempt: int) -> State:
        """Return the state of a sandbox, which this process or an earlier one started."""

    async def heartbeat(self, job_id: str, attempt: int) -> None:
        """Report to a sandbox that a dispatcher still owns it."""

    async def stop(self, job_id: str, attempt: int) -> None:
        """Ask a sandbox to save and stop; it is killed after its grace period."""

    async def kill(self, job_id: str, attempt: int) -> None:
        """Kill a sandbox with everything it started."""

    async def output(self, job_id: str, attempt: int, lines: int) -> list[str]:
        """Return the last lines that a sandbox printed."""

    async def usage(self, job_id: str, attempt: int) -> object:
        """Return the token counts that a sandbox left in its `USAGE_FILE`, None if it left none.

        They are JSON that the sandbox wrote, so the caller checks them.
        """

    async def clean(self, job_id: str, attempt: int) -> None:
        """Remove the working directory of a sandbox that has ended; its output stays."""
