"""Errors that become responses; `http/error_responses.py` writes them.

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
    ├── Unavailable          503  server_error
    └── GatewayTimeout       504  gateway_timeout_error

Any other exception is our bug: a 500 with a reference to the traceback in the log.
"""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field

# All that the platform documents; this service uses some of them. Another status needs a model of
# its own.
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
    """The same envelope with the status 503, which is not documented."""

    code: Literal[503]
    type: Literal["server_error"]
    detail: str = Field(description="Human-readable error message")


class ApiError(Exception):
    """An error response: status and type on the class, the message on the instance."""

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
    """The request cannot be parsed."""

    status, type = 400, "invalid_error"


class Unauthenticated(ApiError):
    """The token is missing or not valid."""

    status, type = 401, "authentication_error"

    def __init__(self, detail: str) -> None:
        super().__init__(detail, headers={"WWW-Authenticate": "Bearer"})


class Forbidden(ApiError):
    """A known caller without the permission for this."""

    status, type = 403, "forbidden_error"


class NotFound(ApiError):
    """The thing that the path names does not exist for this caller."""

    status, type = 404, "not_found_error"


class MethodNotAllowed(ApiError):
    """The path does not have this method."""

    status, type = 405, "invalid_error"


class Conflict(ApiError):
    """The state of the thing does not allow this."""

    status, type = 409, "conflict_error"


class Invalid(ApiError):
    """The request can be parsed, but cannot be fulfilled."""

    status, type = 422, "validation_error"

    def __init__(
        self, detail: str, *loc: str | int, errors: Sequence[Mapping[str, Any]] = ()
    ) -> None:
        items = errors or [{"loc": ["body", *loc], "msg": detail, "type": "value_error"}]
        super().__init__(detail, errors=items)


class UpgradeRequired(ApiError):
    """The client is too old for this server."""

    status, type = 426, "upgrade_required_error"


class TooManyRequests(ApiError):
    """The limit on requests or on a resource is reached."""

    status, type = 429, "usage_limit_exceeded_error"


class BadGateway(ApiError):
    """The engine cannot be reached, or its response cannot be used."""

    status, type = 502, "bad_gateway_error"


class Unavailable(ApiError):
    """The server cannot handle the request now; the client tries again."""

    status, type = 503, "server_error"

    def __init__(self, detail: str, *, retry_seconds: int = 5) -> None:
        super().__init__(detail, headers={"Retry-After": str(retry_seconds)})


class GatewayTimeout(ApiError):
    """The engine did not respond in time."""

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
"""The documented error responses, for the `responses=` of a route."""


# Old clients read square brackets as markup, and crash. Terminals obey control characters.
_PLAIN: dict[int, str | int] = {
    **{code: " " for code in (*range(0x20), *range(0x7F, 0xA0)) if chr(code) not in "\t\n"},
    # These reorder the text around them, so that a person reads something else than it says.
    **{
        code: f"\\u{code:04x}"
        for code in (0x061C, 0x200E, 0x200F, *range(0x202A, 0x202F), *range(0x2066, 0x206A))
    },
    **str.maketrans("[]", "()"),
}


def plain(text: str) -> str:
    """Return TEXT as any client can show it.

    Square brackets become parentheses, control characters become spaces, and bidirectional control
    characters are escaped.
    """
    return text.translate(_PLAIN)


def printable(text: str) -> str:
    """Return TEXT with a question mark for everything that UTF-8 cannot encode."""
    return text.encode("utf-8", "replace").decode()
