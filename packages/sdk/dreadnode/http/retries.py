"""When a call is made again, and how long a job is waited for: decisions, without a network.

A plan asks for one thing after the other and is told what came of it: that a call be made, whose
answer is sent into it or whose failure is thrown into it, or that so many seconds pass. A client
carries it out, blocking or awaiting; what it comes to is what it returns.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from dreadnode.errors import (
    ApiError,
    ConnectionFailed,
    DreadnodeError,
    JobEnded,
    ServerError,
    WaitTimedOut,
)
from dreadnode.http.calls import Call

if TYPE_CHECKING:
    from dreadnode.training.jobs import TrainingJob

T = TypeVar("T")
Plan = Generator[Call[Any] | float, Any, T]
OnUpdate = Callable[["TrainingJob | None"], None]

_NOT_DONE = frozenset({429, 503})
"""Answers that promise that nothing was done, so that any call may be made again."""


RECONNECT = 1.0
"""Seconds before a stream that has ended is asked for again."""


@dataclass(frozen=True)
class Retries:
    """How often and how soon a failed call is made again.

    Attributes:
        limit: Attempts after the first.
        first: Seconds before the second attempt; the wait doubles from there.
        longest: The longest wait in seconds; a server that asks for more is not waited for.
        jitter: Draws from 0 to 1; each wait is between half of its time and the whole.
    """

    limit: int = 3
    first: float = 0.25
    longest: float = 30.0
    jitter: Callable[[], float] = random.random

    def delay(self, call: Call[Any], attempt: int, failure: DreadnodeError) -> float | None:
        """Return the seconds after which to make CALL again, or None for never.

        Args:
            call: The call that failed.
            attempt: How many attempts were made again before; 0 after the first failure.
            failure: What went wrong.
        """
        if attempt >= self.limit:
            return None
        if isinstance(failure, ApiError):
            if failure.status not in _NOT_DONE and not (_by_a_proxy(failure) and call.repeatable):
                return None
            if failure.retry_after is not None:
                return failure.retry_after if failure.retry_after <= self.longest else None
        elif not isinstance(failure, ConnectionFailed) or not (failure.unsent or call.repeatable):
            return None
        return min(self.first * 2.0**attempt, self.longest) * (0.5 + self.jitter() / 2)


def _by_a_proxy(failure: ApiError) -> bool:
    """Whether it came from between: the server's own 502 and 504 are about its engine, and say so.

    A proxy answers like that while the server behind it starts again.
    """
    return failure.status in (502, 504) and not failure.type


class Silence:
    """How long a server has not answered; after PATIENCE seconds it is taken for gone."""

    def __init__(self, patience: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._patience = patience
        self._clock = clock
        self._heard = clock()

    def broken(self) -> None:
        """Take note that the server has answered."""
        self._heard = self._clock()

    def goes_on(self, failure: ConnectionFailed | ServerError) -> None:
        """Take note of an answer that did not come; raise FAILURE when that has lasted too long."""
        if self._clock() - self._heard >= self._patience:
            raise failure


class Wait:
    """The waiting for one job, through restarts of the server."""

    def __init__(
        self,
        *,
        timeout: float | None,
        patience: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._clock = clock
        self._timeout = timeout
        self._started = clock()
        self._silence = Silence(patience, clock)

    def seen(self, job: TrainingJob) -> bool:
        """Take note of JOB; return True if the waiting is over.

        Raises:
            JobEnded: It failed or was cancelled.
            WaitTimedOut: It goes on, and the time is up.
        """
        self._silence.broken()
        if job.status == "completed":
            return True
        if job.has_ended:
            raise JobEnded(job)
        if self._timeout is not None and self._is_over():
            raise WaitTimedOut(job, self._timeout)
        return False

    def missed(self, failure: ConnectionFailed | ServerError) -> None:
        """Take note of an answer that did not come; raise FAILURE when that has lasted too long."""
        self._silence.goes_on(failure)
        if self._is_over():
            raise failure

    def _is_over(self) -> bool:
        return self._timeout is not None and self._clock() - self._started >= self._timeout


def persistently(call: Call[T], retries: Retries) -> Plan[T]:
    """Plan to make CALL, again as long as it fails in passing, and to return what it gives."""
    attempt = 0
    while True:
        try:
            given: T = yield call
        except DreadnodeError as failure:
            delay = retries.delay(call, attempt, failure)
            if delay is None:
                raise
        else:
            return given
        yield delay
        attempt += 1


def until_ended(
    look: Call[TrainingJob], wait: Wait, interval: float, on_update: OnUpdate | None
) -> Plan[TrainingJob]:
    """Plan to LOOK at a job every so many seconds until it has completed, and to return it."""
    while True:
        job: TrainingJob | None = None
        try:
            job = yield look
        except (ConnectionFailed, ServerError) as failure:
            wait.missed(failure)
        if on_update:
            on_update(job)
        if job and wait.seen(job):
            return job
        yield interval
