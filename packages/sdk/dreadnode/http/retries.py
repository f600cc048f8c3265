"""Which failed calls are sent again and when, and how long an outage may last.

Everything here decides without a network; the clients do what it decides.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

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

_NOT_PROCESSED = frozenset({429, 503})
"""Statuses of requests that the server did not process, so every call may be sent again."""

RECONNECT_SECONDS = 1.0
"""Seconds before an event stream that ended is opened again."""


@dataclass(frozen=True)
class Retries:
    """How often and how soon a failed call is sent again.

    Attributes:
        limit: Attempts after the first one.
        first: Seconds before the second attempt; the delay doubles from there.
        longest: The longest delay in seconds. A longer `Retry-After` ends the attempts.
        jitter: Returns a random number from 0 to 1. Each delay is between half of its time and all
            of it.
    """

    limit: int = 3
    first: float = 0.25
    longest: float = 30.0
    jitter: Callable[[], float] = random.random

    def delay(
        self, call: Call[Any], attempt: int, failure: DreadnodeError, elapsed: float
    ) -> float | None:
        """Return the seconds to wait before CALL is sent again, or None to give up.

        Args:
            call: The call that failed.
            attempt: How many times it was sent again before; 0 after the first failure.
            failure: The error of this attempt.
            elapsed: Seconds since the first failure of this call.
        """
        if attempt >= self.limit:
            return None
        if isinstance(failure, ApiError):
            if failure.status not in _NOT_PROCESSED and not (
                _is_from_proxy(failure) and call.repeatable
            ):
                return None
            if failure.retry_after is not None:
                return failure.retry_after if failure.retry_after <= self.longest else None
        elif not isinstance(failure, ConnectionFailed) or not (failure.unsent or call.repeatable):
            return None
        return min(self.first * 2.0**attempt, self.longest) * (0.5 + self.jitter() / 2)


def _is_from_proxy(failure: ApiError) -> bool:
    """Whether a proxy answered while the server behind it restarts.

    The server's own 502 and 504 are about its engine, and their envelope has a type.
    """
    return failure.status in (502, 504) and not failure.type


class Outage:
    """Measures how long the server has not answered.

    Args:
        max_outage: Seconds without a response after which the server counts as gone.
        clock: Returns the time in seconds.
    """

    def __init__(self, max_outage: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._max_outage = max_outage
        self._clock = clock
        self._last_response = clock()

    def answered(self) -> None:
        """Record that the server has answered."""
        self._last_response = self._clock()

    def failed(self, failure: ConnectionFailed | ServerError) -> None:
        """Record a missing response; raise FAILURE when the outage has lasted too long."""
        if self._clock() - self._last_response >= self._max_outage:
            raise failure


class JobWait:
    """Decides when the wait for one job is over, through restarts of the server.

    Args:
        timeout: The longest wait in seconds; None waits without a limit.
        max_outage: Seconds without a response after which the server counts as gone.
        clock: Returns the time in seconds.
    """

    def __init__(
        self,
        *,
        timeout: float | None,
        max_outage: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._clock = clock
        self._timeout = timeout
        self._started = clock()
        self._outage = Outage(max_outage, clock)

    def is_over(self, job: TrainingJob) -> bool:
        """Return whether JOB has completed.

        Raises:
            JobEnded: It failed or was cancelled.
            WaitTimedOut: It still runs after the timeout.
        """
        self._outage.answered()
        if job.status == "completed":
            return True
        if job.has_ended:
            raise JobEnded(job)
        if self._timeout is not None and self._has_timed_out():
            raise WaitTimedOut(job, self._timeout)
        return False

    def failed(self, failure: ConnectionFailed | ServerError) -> None:
        """Record a missing response; raise FAILURE after the timeout or a long outage."""
        self._outage.failed(failure)
        if self._has_timed_out():
            raise failure

    def _has_timed_out(self) -> bool:
        return self._timeout is not None and self._clock() - self._started >= self._timeout
