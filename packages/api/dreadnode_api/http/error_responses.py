"""The one place where a failure becomes an answer: the documented envelope, whatever happened."""

import logging
import re
import secrets
from collections.abc import Mapping, Sequence
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse

from dreadnode_api.errors import (
    ApiError,
    Invalid,
    Malformed,
    MethodNotAllowed,
    NotFound,
    plain,
    printable,
)
from dreadnode_api.http.patterns import explain

log = logging.getLogger(__name__)

_PARAMETER = re.compile(r"\{(\w+)\}")


def answer(error: ApiError) -> JSONResponse:
    """Return the documented envelope of `error`."""
    body: dict[str, Any] = {
        "code": error.status,
        "type": error.type,
        "detail": printable(plain(error.detail)),
    }
    if error.errors:
        body["errors"] = [
            {**item, "loc": [_part(p) for p in item["loc"]], "msg": printable(plain(item["msg"]))}
            for item in error.errors
        ]
    return JSONResponse(body, status_code=error.status, headers=error.headers)


def crash(error: BaseException, where: str) -> JSONResponse:
    """Log an unexpected failure whole and answer 500 with its reference and nothing else."""
    reference = secrets.token_hex(6)
    log.error(
        "unexpected failure %s at %s",
        reference,
        where,
        exc_info=error,
        extra={"fields": {"reference": reference}},
    )
    return answer(
        ApiError(
            "Something went wrong on the server; "
            f"look for the reference `{reference}` in the server's log"
        )
    )


def install(app: FastAPI) -> None:
    """Give `app` the handlers that answer every failure in the documented envelope."""

    @app.exception_handler(ApiError)
    async def refused(request: Request, error: ApiError) -> JSONResponse:
        return answer(error)

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> JSONResponse:
        return answer(from_validation(error, request.headers.get("content-type", "")))

    @app.exception_handler(HTTPException)
    async def http(request: Request, error: HTTPException) -> JSONResponse:
        return answer(_from_http(request, error))


def from_validation(error: RequestValidationError, kind: str) -> ApiError:
    """Return the refusal for a request that does not have the documented shape.

    Args:
        error: What is wrong.
        kind: What the body was said to be. One that is not said to be JSON is not read as JSON.
    """
    found = error.errors()
    if any(item["type"] == "json_invalid" for item in found):
        return Malformed("The body is not valid JSON; send one JSON object encoded as UTF-8")
    items = [
        {"loc": _location(item["loc"]), "msg": _message(item, kind), "type": item["type"]}
        for item in found
    ]
    said = [f"`{'.'.join(str(p) for p in i['loc'][1:]) or i['loc'][0]}`: {i['msg']}" for i in items]
    rest = f"; and {len(said) - 3} more" if len(said) > 3 else ""
    return Invalid("; ".join(said[:3]) + rest, errors=items)


def _location(loc: Sequence[str | int]) -> list[str | int]:
    """Drop the name of the union's branch, which is no field of the request."""
    parts = [_part(p) for p in loc] or ["body"]
    if parts[0] == "body" and parts[1:2] in (["sft"], ["rl"]):
        del parts[1]
    return parts


def _part(part: str | int) -> str | int:
    return part if isinstance(part, int) else printable(part)[:200]


def _message(item: Mapping[str, Any], kind: str) -> str:
    """Say what is wrong with a field; pydantic's own words where they are plain."""
    what, context = item["type"], item.get("ctx") or {}
    if what == "extra_forbidden":
        kind_of = "parameter" if item["loc"][0] == "query" else "field"
        near = context.get("near")
        hint = f"did you mean `{near}`?" if near else "leave it out or mend its name"
        return f"there is no such {kind_of}; {hint}"
    if what == "missing":
        return "this field is required"
    if what in ("model_attributes_type", "dict_type"):
        if isinstance(item["input"], bytes):
            return f"{_said(kind)}; send JSON as `Content-Type: application/json`"
        return "give a JSON object"
    if what == "string_pattern_mismatch":
        return explain(context["pattern"])
    if what == "too_long" and isinstance(item["input"], str):
        return f"give at most {context['max_length']:,} characters, not {len(item['input']):,}"
    if what in ("too_short", "string_too_short") and not item["input"]:
        return "this must not be empty"
    text = str(item["msg"]).removeprefix("Value error, ")
    return text if what == "value_error" else text[:1].lower() + text[1:]


def _said(kind: str) -> str:
    return f"the body is said to be `{kind[:100]}`" if kind else "the body is not said to be JSON"


def _allowed(request: Request) -> str:
    """Return the methods of the path that a request names.

    The router knows those of one route only, and the methods of a path may be several routes; the
    description has them together. Of two paths that fit, the one with fewer parameters is meant.
    """
    paths: dict[str, dict[str, Any]] = request.app.openapi()["paths"]
    fitting = [
        path
        for path in paths
        if re.fullmatch(_PARAMETER.sub(_pattern, path), request.url.path) is not None
    ]
    if not fitting:
        return ""
    return ", ".join(sorted(m.upper() for m in paths[min(fitting, key=lambda p: p.count("{"))]))


def _pattern(parameter: re.Match[str]) -> str:
    return ".+" if parameter[1] == "path" else "[^/]+"


def _from_http(request: Request, error: HTTPException) -> ApiError:
    if error.status_code == 404:
        return NotFound(f"There is nothing at `{request.url.path[:200]}`; see `/docs`")
    if error.status_code == 405:
        allowed = _allowed(request) or (error.headers or {}).get("Allow", "")
        return MethodNotAllowed(
            f"`{request.method}` is not possible here; use {allowed}", headers={"Allow": allowed}
        )
    return Malformed("The body cannot be read; send one JSON object encoded as UTF-8")
