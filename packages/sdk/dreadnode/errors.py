"""What a caller may catch.

    DreadnodeError
    ├── ConfigError              no server, no key, no organization, a profile that does not exist
    ├── InputError               an argument is wrong; found before anything was sent
    ├── UnusableFile             a file cannot be read, written or used (names the line)
    ├── ConnectionFailed         no answer: nobody listens, or the connection broke
    │   └── TimedOut             no answer in time
    ├── ProtocolError            an answer that is not of this API
    ├── ApiError                 a refusal: `status`, `type`, `detail`, `errors`, `request_id`
    │   ├── BadRequestError          400
    │   ├── AuthenticationError      401
    │   ├── PermissionDeniedError    403
    │   ├── NotFoundError            404
    │   ├── ConflictError            409
    │   ├── ValidationError          422
    │   ├── UnknownModelError        404, 422: `model`, `suggestions`
    │   ├── UpgradeRequiredError     426
    │   ├── RateLimitedError         429: `retry_after`
    │   └── ServerError              5xx
    │       └── UpstreamError        502, 504: the engine or Tinker did not answer the server
    ├── JobEnded                 the job that was waited for ended otherwise than completed: `job`
    ├── WaitTimedOut             the job goes on; the waiting ended: `job`
    └── ServeError               `dn serve` cannot start, or had to stop

Every message is one sentence that says what is wrong, where, and what to do about it. Neither an
httpx nor a pydantic exception leaves this package.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dreadnode.training.jobs import TrainingJob

_UNKNOWN_MODEL = re.compile(r"Unknown training base model '(?P<model>.*)'\.")
_SUGGESTIONS = re.compile(r"Did you mean one of: (?P<names>.+)\?$", re.MULTILINE)


class DreadnodeError(Exception):
    """Anything that this package refuses or reports; `str(error)` is for people."""


class ConfigError(DreadnodeError):
    """What is needed to reach a server is missing or contradicts itself."""


class InputError(DreadnodeError):
    """An argument is wrong, and was found to be so before anything was sent."""


class UnusableFile(DreadnodeError):
    """A file that cannot be read, written or used; the message names the line."""


class ConnectionFailed(DreadnodeError):
    """The server gave no answer.

    Attributes:
        unsent: Whether it is certain that the request never reached the server.
    """

    def __init__(self, message: str, *, unsent: bool = False) -> None:
        super().__init__(message)
        self.unsent = unsent


class TimedOut(ConnectionFailed):
    """The server gave no answer in time."""


class ProtocolError(DreadnodeError):
    """The server answered something that this client does not understand."""


@dataclass(frozen=True)
class FieldError:
    """One field of a request that the server refused."""

    loc: tuple[str | int, ...]
    msg: str
    type: str


class ApiError(DreadnodeError):
    """A refusal by the server.

    Attributes:
        status: The HTTP status.
        code: The status again, as the envelope names it.
        type: The kind of refusal, for instance `validation_error`.
        detail: The refusal in words; also `str(error)`.
        errors: The fields that were refused, if the refusal is about fields.
        request_id: What the server's log calls this request, if it said so.
        retry_after: Seconds after which to try again, if the server said so.
    """

    def __init__(
        self,
        status: int,
        detail: str,
        *,
        type: str = "",  # noqa: A002 - the name in the documented envelope
        errors: tuple[FieldError, ...] = (),
        request_id: str | None = None,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(detail)
        self.status = self.code = status
        self.type = type
        self.detail = detail
        self.errors = errors
        self.request_id = request_id
        self.retry_after = retry_after


class BadRequestError(ApiError):
    """400: the request could not be read."""


class AuthenticationError(ApiError):
    """401: no key, or one that the server does not accept."""


class PermissionDeniedError(ApiError):
    """403: the key is good, and not good enough for this."""


class NotFoundError(ApiError):
    """404: no such thing, or none that this key may see."""


class ConflictError(ApiError):
    """409: the thing is in a state in which this cannot be done."""


class ValidationError(ApiError):
    """422: the request was read and refused; `errors` names the fields."""


class UnknownModelError(ApiError):
    """No base model has this id.

    Attributes:
        model: The id as the server received it.
        suggestions: Ids that may have been meant, best first; empty when nothing is close.
    """

    @property
    def model(self) -> str:
        """The id as the server received it."""
        found = _UNKNOWN_MODEL.search(self.detail)
        return found["model"] if found else ""

    @property
    def suggestions(self) -> tuple[str, ...]:
        """Ids that may have been meant, best first."""
        found = _SUGGESTIONS.search(self.detail)
        return tuple(found["names"].split(", ")) if found else ()


class UpgradeRequiredError(ApiError):
    """426: this client is too old for the server."""


class RateLimitedError(ApiError):
    """429: too many requests; `retry_after` says for how long."""


class ServerError(ApiError):
    """5xx: the server failed; `request_id` is what its log calls the request."""


class UpstreamError(ServerError):
    """502, 504: the server could not reach the engine or Tinker."""


class JobEnded(DreadnodeError):
    """The job that was waited for ended otherwise than completed."""

    def __init__(self, job: TrainingJob) -> None:
        reason = f": {job.error}" if job.error else ""
        super().__init__(f"job {job.id} {job.status}{reason}")
        self.job = job


class WaitTimedOut(DreadnodeError):
    """The waiting came to its end before the job did; the job goes on."""

    def __init__(self, job: TrainingJob, seconds: float) -> None:
        super().__init__(f"job {job.id} is still {job.status} after {seconds:g} s; it goes on")
        self.job = job


class ServeError(DreadnodeError):
    """The server on this machine cannot start, or had to stop."""


_BY_STATUS: dict[int, type[ApiError]] = {
    400: BadRequestError,
    401: AuthenticationError,
    403: PermissionDeniedError,
    404: NotFoundError,
    409: ConflictError,
    422: ValidationError,
    426: UpgradeRequiredError,
    429: RateLimitedError,
    502: UpstreamError,
    504: UpstreamError,
}


def refusal(status: int, headers: Mapping[str, str], body: bytes) -> ApiError:
    """Return the error that an answer outside 200 to 299 stands for.

    A body that is not the documented envelope (a proxy's page, say) becomes a sentence that tells
    the status, since its own words were not written for whoever reads this.
    """
    envelope = _envelope(body)
    detail = envelope.get("detail")
    if not isinstance(detail, str) or not detail:
        detail = f"the server answered {status} without saying why; is this the right address?"
    kind = _BY_STATUS.get(status, ServerError if status >= 500 else ApiError)
    if status in (404, 422) and _UNKNOWN_MODEL.match(detail):
        kind = UnknownModelError
    return kind(
        status,
        detail,
        type=str(envelope.get("type", "")),
        errors=_field_errors(envelope.get("errors")),
        request_id=headers.get("x-request-id"),
        retry_after=_seconds(headers.get("retry-after")),
    )


def _envelope(body: bytes) -> dict[str, Any]:
    try:
        envelope = json.loads(body)
    except ValueError:
        return {}
    return envelope if isinstance(envelope, dict) else {}


def _field_errors(errors: object) -> tuple[FieldError, ...]:
    if not isinstance(errors, list):
        return ()
    return tuple(
        FieldError(
            tuple(error.get("loc", ())), str(error.get("msg", "")), str(error.get("type", ""))
        )
        for error in errors
        if isinstance(error, dict)
    )


def _seconds(value: str | None) -> float | None:
    """Read a Retry-After header given in seconds; the form with a date is not used by this API."""
    return float(value) if value is not None and value.isdecimal() else None
