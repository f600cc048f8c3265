"""Refusals: what the service may say no with. `answers.py` turns them into answers.

    ApiError
    ├── Malformed            400  invalid_error
    ├── Unauthenticated      401  authentication_error
    ├── Forbidden            403  forbidden_error
    ├── NotFound             404  not_found_error
    ├── MethodNotAllowed     405  invalid_error
    ├── Conflict             409  conflict_error
    ├── Invalid              422  validation_error
    ├── UpgradeRequired      426  upgrade_required_error
    ├── TooManyRequests      429  usage_limit_exceeded_error
    ├── BadGateway           502  bad_gateway_error
    ├── Unavailable          503  server_error (`/health/ready` only)
    └── GatewayTimeout       504  gateway_timeout_error

Anything else that is raised is our bug: a 500 with a reference that stands in the log.
"""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field

# What the platform documents, of which this service uses a part. A status or a type beyond these
# would be news to a client, so an answer with one has a model of its own.
Code = Literal[400, 401, 403, 404, 409, 422, 426, 429, 500, 502, 504]
ErrorType = Literal[
    "already_exists_error",
    "app_error",
    "authentication_error",
    "conflict_error",
    "aws_error",
    "configuration_error",
    "database_error",
    "dynamodb_error",
    "e2b_error",
    "e2b_rate_limit_error",
    "expired_signature_error",
    "expired_token_error",
    "forbidden_error",
    "group_error",
    "invalid_error",
    "invalid_flag_error",
    "invalid_username_error",
    "mail_error",
    "member_exists_error",
    "member_limit_exceeded_error",
    "migration_lock_timeout_error",
    "not_found_error",
    "oauth_config_error",
    "org_sandbox_capacity_exceeded_error",
    "bad_gateway_error",
    "gateway_timeout_error",
    "s3_error",
    "server_error",
    "task_error",
    "stripe_error",
    "token_error",
    "upgrade_required_error",
    "usage_limit_exceeded_error",
    "user_verification_error",
    "validation_error",
]


class ValidationErrorItem(BaseModel):
    """One field that is wrong."""

    loc: list[str | int] = Field(description="Where the validation error occurred")
    msg: str = Field(description="Human-readable validation message")
    type: str = Field(description="Machine-readable validation error type")


class APIErrorPayload(BaseModel):
    """Canonical API error envelope returned by the API."""

    model_config = ConfigDict(
        json_schema_extra={
            "example": {
                "code": 401,
                "detail": "Authentication failed",
                "type": "authentication_error",
            }
        }
    )

    code: Code = Field(description="HTTP status code")
    type: ErrorType = Field(description="Stable machine-readable error type")
    detail: str = Field(description="Human-readable error message")
    errors: list[ValidationErrorItem] | None = None


class UnavailablePayload(BaseModel):
    """The same envelope with the one status beside the documented ones."""

    code: Literal[503]
    type: Literal["server_error"]
    detail: str = Field(description="Human-readable error message")


class ApiError(Exception):
    """A refusal: status and type on the class, words on the instance."""

    status: ClassVar[int] = 500
    type: ClassVar[str] = "server_error"

    def __init__(
        self,
        detail: str,
        *,
        errors: Sequence[Mapping[str, Any]] = (),
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(detail)
        self.detail = detail
        self.errors = errors
        self.headers = dict(headers or {})


class Malformed(ApiError):
    """The request cannot be read at all."""

    status, type = 400, "invalid_error"


class Unauthenticated(ApiError):
    """No token, or one that opens nothing."""

    status, type = 401, "authentication_error"

    def __init__(self, detail: str) -> None:
        super().__init__(detail, headers={"WWW-Authenticate": "Bearer"})


class Forbidden(ApiError):
    """A known caller who may not do this."""

    status, type = 403, "forbidden_error"


class NotFound(ApiError):
    """What the path names does not exist, or not for this caller."""

    status, type = 404, "not_found_error"


class MethodNotAllowed(ApiError):
    """The path exists, and not for this method."""

    status, type = 405, "invalid_error"


class Conflict(ApiError):
    """The thing exists and its state does not allow this."""

    status, type = 409, "conflict_error"


class Invalid(ApiError):
    """The request can be read, and asks for something that cannot be done."""

    status, type = 422, "validation_error"

    def __init__(
        self, detail: str, *loc: str | int, errors: Sequence[Mapping[str, Any]] = ()
    ) -> None:
        items = errors or [{"loc": ["body", *loc], "msg": detail, "type": "value_error"}]
        super().__init__(detail, errors=items)


class UpgradeRequired(ApiError):
    """The client is older than this server serves."""

    status, type = 426, "upgrade_required_error"


class TooManyRequests(ApiError):
    """This credential asks more often than it may."""

    status, type = 429, "usage_limit_exceeded_error"


class BadGateway(ApiError):
    """The engine had to be asked and gave no usable answer."""

    status, type = 502, "bad_gateway_error"


class Unavailable(ApiError):
    """This process cannot serve yet."""

    status, type = 503, "server_error"


class GatewayTimeout(ApiError):
    """The engine had to be asked and did not answer in time."""

    status, type = 504, "gateway_timeout_error"


ERRORS: dict[int | str, dict[str, Any]] = {
    status: {"model": APIErrorPayload, "description": description}
    for status, description in {
        400: "Invalid request",
        401: "Authentication failed",
        403: "Access forbidden",
        404: "Not found",
        409: "Already exists",
        422: "Validation error",
        426: "Upgrade required",
        429: "Rate limited",
        500: "Internal server error",
        502: "Bad gateway",
        504: "Gateway timeout",
    }.items()
}
"""The documented failures, for the `responses=` of a route."""


# Old clients read square brackets as markup, and crash; terminals obey control characters.
_PLAIN: dict[int, str | int] = {
    **{code: " " for code in (*range(0x20), *range(0x7F, 0xA0)) if chr(code) not in "\t\n"},
    **str.maketrans("[]", "()"),
}


def plain(text: str) -> str:
    """Return `text` as any client can show it, without square brackets and control characters."""
    return text.translate(_PLAIN)


def printable(text: str) -> str:
    """Return `text` with what UTF-8 cannot carry replaced by a question mark."""
    return text.encode("utf-8", "replace").decode()
