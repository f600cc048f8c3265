"""Error responses: every failure becomes the documented envelope here."""

import logging
import re
import secrets
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, Response
from starlette.types import Scope

from dreadnode_api import logs, storage_errors
from dreadnode_api.errors import (
    ApiError,
    Invalid,
    Malformed,
    MethodNotAllowed,
    NotFound,
    Unavailable,
    plain,
    printable,
)
from dreadnode_api.http import protocol_errors
from dreadnode_api.http.patterns import explain

log = logging.getLogger(__name__)

MAX_ERRORS = 50
"""How many errors a response names: a body of a megabyte can have a hundred thousand."""
ErrorPage = Callable[[ApiError, Scope], Response | None]
"""Returns the page of an error, or None for a request that does not want one.

The application keeps it as `state.error_page`: pages are above this module.
"""
_PARAMETER = re.compile(r"\{(\w+)\}")


def error_response(error: ApiError, scope: Scope | None = None) -> Response:
    """Return the documented envelope of ERROR, or what the request SCOPE wants in its place.

    That is the envelope of another protocol, or a page of the console.
    """
    if scope is not None and (page := _page(error, scope)) is not None:
        return page
    if scope is not None and (shaped := protocol_errors.shaped(error, scope)) is not None:
        status, shape = shaped
        return JSONResponse(shape, status_code=status, headers=error.headers)
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


def _page(error: ApiError, scope: Scope) -> Response | None:
    make: ErrorPage | None = getattr(scope["app"].state, "error_page", None)
    return None if make is None else make(error, scope)


def crash_response(error: BaseException, where: str, scope: Scope | None = None) -> Response:
    """Log an unexpected exception and return the response for it.

    Storage trouble is a 503 and one log line a minute. Anything else is our bug: a 500 with a
    reference to the traceback in the log.
    """
    trouble = storage_errors.describe(error)
    if trouble is not None:
        logs.trouble(log, trouble, "%s (%s)", trouble, error)
        return error_response(Unavailable(f"{trouble}; try again in a few seconds"), scope)
    reference = secrets.token_hex(6)
    log.error(
        "unexpected failure %s at %s",
        reference,
        where,
        exc_info=error,
        extra={"reference": reference},
    )
    return error_response(
        ApiError(
            "Something went wrong on the server; "
            f"look for the reference `{reference}` in the server's log"
        ),
        scope,
    )


def install(app: FastAPI) -> None:
    """Give APP the handlers that turn every failure into the documented envelope."""

    @app.exception_handler(ApiError)
    async def refused(request: Request, error: ApiError) -> Response:
        return error_response(error, request.scope)

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> Response:
        found = from_validation(error, request.headers.get("content-type", ""))
        return error_response(found, request.scope)

    @app.exception_handler(HTTPException)
    async def http(request: Request, error: HTTPException) -> Response:
        return error_response(_from_http(request, error), request.scope)


def from_validation(error: RequestValidationError, content_type: str) -> ApiError:
    """Return the error for a request that does not have the documented shape.

    Args:
        error: What is wrong.
        content_type: That of the body. A body that is not declared as JSON is not parsed as JSON.
    """
    found = error.errors()
    if any(item["type"] == "json_invalid" for item in found):
        return Malformed("The body is not valid JSON; send one JSON object encoded as UTF-8")
    items = [
        {"loc": _location(item["loc"]), "msg": _message(item, content_type), "type": item["type"]}
        for item in found[:MAX_ERRORS]
    ]
    texts = [
        f"`{'.'.join(str(p) for p in i['loc'][1:]) or i['loc'][0]}`: {i['msg']}" for i in items[:3]
    ]
    rest = f"; and {len(found) - 3} more" if len(found) > 3 else ""
    return Invalid("; ".join(texts) + rest, errors=items)


def _location(loc: Sequence[str | int]) -> list[str | int]:
    """Drop the name of the union's branch, which is not a field of the request."""
    parts = [_part(p) for p in loc] or ["body"]
    if parts[0] == "body" and parts[1:2] in (["sft"], ["rl"], ["eval"]):
        del parts[1]
    return parts


def _part(part: str | int) -> str | int:
    return part if isinstance(part, int) else printable(part)[:200]


def _message(item: Mapping[str, Any], content_type: str) -> str:
    """Return what is wrong with a field; pydantic's message where it is plain."""
    what, context = item["type"], item.get("ctx") or {}
    if what == "extra_forbidden":
        kind = "parameter" if item["loc"][0] == "query" else "field"
        near = context.get("near")
        hint = f"did you mean `{near}`?" if near else "remove it or correct its name"
        return f"unknown {kind}; {hint}"
    if what == "missing":
        return "this field is required"
    if what in ("model_attributes_type", "dict_type"):
        if isinstance(item["input"], bytes):
            return f"{_declared(content_type)}; send JSON as `Content-Type: application/json`"
        return "give a JSON object"
    if what == "string_pattern_mismatch":
        return explain(context["pattern"])
    if what == "too_long" and isinstance(item["input"], str):
        return f"give at most {context['max_length']:,} characters, not {len(item['input']):,}"
    if what in ("too_short", "string_too_short") and not item["input"]:
        return "this must not be empty"
    text = str(item["msg"]).removeprefix("Value error, ")
    return text if what == "value_error" else text[:1].lower() + text[1:]


def _declared(content_type: str) -> str:
    if not content_type:
        return "the body has no content type"
    return f"the body has the content type `{content_type[:100]}`"


def _allowed_methods(request: Request) -> str:
    """Return the methods of the path that a request names.

    The router knows those of one route only, and the methods of a path may be several routes; the
    OpenAPI description has them together. Of two matching paths, the one with fewer parameters
    counts.
    """
    paths: dict[str, dict[str, Any]] = request.app.openapi()["paths"]
    matching = [
        path
        for path in paths
        if re.fullmatch(_PARAMETER.sub(_pattern, path), request.url.path) is not None
    ]
    if not matching:
        return ""
    return ", ".join(sorted(m.upper() for m in paths[min(matching, key=lambda p: p.count("{"))]))


def _pattern(parameter: re.Match[str]) -> str:
    return ".+" if parameter[1] == "path" else "[^/]+"


def _from_http(request: Request, error: HTTPException) -> ApiError:
    if error.status_code == 404:
        return NotFound(f"The path `{request.url.path[:200]}` does not exist; see `/docs`")
    if error.status_code == 405:
        allowed = _allowed_methods(request) or (error.headers or {}).get("Allow", "")
        return MethodNotAllowed(
            f"The method `{request.method}` is not allowed here; use {allowed}",
            headers={"Allow": allowed},
        )
    return Malformed("The body cannot be read; send one JSON object encoded as UTF-8")
