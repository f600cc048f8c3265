"""The errors that a caller can catch.

    DreadnodeError
    ├── ConfigError              a setting is missing: server, token, organization, profile
    │   └── NoServerSet              nothing names a server
    ├── InputError               an argument is wrong; found before anything was sent
    ├── UnusableFile             a file cannot be read, written or used (names the line)
    ├── ConnectionFailed         no response: no server listens, or the connection broke
    │   └── TimedOut             no response in time
    ├── ProtocolError            the response is not one of this API
    ├── ApiError                 refused: `status`, `type`, `detail`, `errors`, `request_id`
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
    │       └── UpstreamError        502, 504: the engine or Tinker did not respond
    ├── JobEnded                 the job failed or was cancelled: `job`
    ├── WaitTimedOut             the job still runs after the timeout: `job`
    ├── ExportError              an export or an upload to a hub failed; nothing is left of it
    └── ServeError               `dn serve` cannot start, or had to stop

Every message is one sentence: what is wrong, where, and what to do. No error of httpx2 or pydantic
leaves this package.
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
    """An error of this package; `str(error)` is a message for people."""


class ConfigError(DreadnodeError):
    """A setting that a call needs is missing or wrong."""


class NoServerSet(ConfigError):
    """Neither a flag nor the environment nor a profile names a server."""


class InputError(DreadnodeError):
    """An argument is wrong; found before anything was sent."""


class UnusableFile(DreadnodeError):
    """A file cannot be read, written or used; the message names the line."""


class ConnectionFailed(DreadnodeError):
    """The server did not respond.

    Attributes:
        unsent: Whether the request certainly did not reach the server.
    """

    def __init__(self, message: str, *, unsent: bool = False) -> None:
        super().__init__(message)
        self.unsent = unsent


class TimedOut(ConnectionFailed):
    """The server did not respond in time."""


class ProtocolError(DreadnodeError):
    """The response is not what this client expects."""


@dataclass(frozen=True)
class FieldError:
    """One wrong field of a request."""

    loc: tuple[str | int, ...]
    msg: str
    type: str


class ApiError(DreadnodeError):
    """The server refused a request.

    Attributes:
        status: The HTTP status.
        code: The same, under the name that the response has for it.
        type: The kind of error, for instance `validation_error`.
        detail: The message; also `str(error)`.
        errors: The wrong fields, if the error is about fields.
        request_id: The id of this request in the server's log, if known.
        retry_after: Seconds to wait before the next attempt, if the server named them.
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
    """400: the server could not read the request."""


class AuthenticationError(ApiError):
    """401: the token is missing or not valid."""


class PermissionDeniedError(ApiError):
    """403: the token is valid, but its role does not permit this."""


class NotFoundError(ApiError):
    """404: the object does not exist, or this token may not see it."""


class ConflictError(ApiError):
    """409: the current state of the object does not permit this."""


class ValidationError(ApiError):
    """422: the request is not valid; `errors` names the fields."""


class UnknownModelError(ApiError):
    """No base model has this id.

    Attributes:
        model: The id that the server received.
        suggestions: Similar ids, best first; empty if none is similar.
    """

    @property
    def model(self) -> str:
        """The id that the server received."""
        found = _UNKNOWN_MODEL.search(self.detail)
        return found["model"] if found else ""

    @property
    def suggestions(self) -> tuple[str, ...]:
        """Similar ids, best first."""
        found = _SUGGESTIONS.search(self.detail)
        return tuple(found["names"].split(", ")) if found else ()


class UpgradeRequiredError(ApiError):
    """426: this client is too old for the server."""


class RateLimitedError(ApiError):
    """429: too many requests; wait for `retry_after` seconds."""


class ServerError(ApiError):
    """5xx: the server failed; its log has the `request_id`."""


class UpstreamError(ServerError):
    """502, 504: the server could not reach the engine or Tinker."""


class JobEnded(DreadnodeError):
    """A job that was waited for failed or was cancelled."""

    def __init__(self, job: TrainingJob) -> None:
        reason = f": {job.error}" if job.error else ""
        super().__init__(f"job {job.id} {job.status}{reason}")
        self.job = job


class WaitTimedOut(DreadnodeError):
    """A job that was waited for still runs after the timeout."""

    def __init__(self, job: TrainingJob, seconds: float) -> None:
        super().__init__(
            f"job {job.id} is still {job.status} after {seconds:g} s and keeps running"
        )
        self.job = job


class ExportError(DreadnodeError):
    """What a job trained cannot be exported, or not sent to a hub."""


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
    """Return the error for a response outside 200 to 299.

    If the body is not the API's envelope, for instance a proxy's page, the message names only the
    status.
    """
    envelope = _envelope(body)
    detail = envelope.get("detail")
    if not isinstance(detail, str) or not detail:
        detail = f"the server responded with {status} and no message; is this the right address?"
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
    """Read a Retry-After header in seconds; this API does not use its form with a date."""
    return float(value) if value is not None and value.isdecimal() else None


def reason_of(error: OSError) -> str:
    """Return why a file cannot be used, as a part of a sentence."""
    return (error.strerror or str(error)).lower()
