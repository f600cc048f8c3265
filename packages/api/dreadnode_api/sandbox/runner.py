"""What a runner is asked to start, and what it can say of it: all that a runner must offer."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Limits:
    """What a sandbox may use; seconds, bytes and numbers."""

    memory_bytes: int
    cpu_seconds: int
    wall_seconds: int
    open_files: int
    processes: int
    disk_bytes: int
    output_bytes: int


@dataclass(frozen=True, slots=True)
class Sandbox:
    """One attempt at one job, to be started once.

    Attributes:
        environment: every variable that the process gets. It holds the keys, so it is shown
            nowhere.
        stop_grace: seconds between the request to stop and the kill.
        orphan_seconds: how long the process goes on while no dispatcher attends to it.
    """

    job_id: str
    attempt: int
    command: Sequence[str]
    environment: Mapping[str, str]
    limits: Limits
    stop_grace: float
    orphan_seconds: float

    def __repr__(self) -> str:
        return f"<Sandbox {self.job_id}/{self.attempt}>"


@dataclass(frozen=True, slots=True)
class Running:
    """The sandbox lives."""


@dataclass(frozen=True, slots=True)
class Exited:
    """The sandbox has ended and nothing of it is left.

    Attributes:
        code: its exit code, or minus the signal that killed it.
        reason: why it was ended from outside, if it was: `memory`, `cpu_time`, `wall_time`,
            `disk`, `processes`, `orphaned`, `stopped` (in the grace period) or `killed`
            (after it).
    """

    code: int
    reason: str | None = None


@dataclass(frozen=True, slots=True)
class Lost:
    """There is no such sandbox, or its end was not witnessed; nothing of it is left."""


State = Running | Exited | Lost


class RunnerAway(Exception):
    """The runner could not be asked, so nothing new is known; the text says why.

    Whatever was asked may be asked again. It never means that a sandbox has ended.
    """


class Runner(Protocol):
    """Starts sandboxes and ends them. A sandbox is named by its job and attempt.

    Every method may raise `RunnerAway`.
    """

    async def start(self, sandbox: Sandbox) -> None:
        """Start `sandbox`, unless it was started already."""

    async def state(self, job_id: str, attempt: int) -> State:
        """Look at a sandbox, started by this process or by an earlier one."""

    async def attend(self, job_id: str, attempt: int) -> None:
        """Say that somebody still looks after a sandbox."""

    async def stop(self, job_id: str, attempt: int) -> None:
        """Ask a sandbox to save and stop; it is killed after its grace period."""

    async def kill(self, job_id: str, attempt: int) -> None:
        """Kill a sandbox with all that it started."""

    async def output(self, job_id: str, attempt: int, lines: int) -> list[str]:
        """Return the last lines that a sandbox printed."""

    async def clean(self, job_id: str, attempt: int) -> None:
        """Remove the working directory of a sandbox that has ended; its output stays."""
