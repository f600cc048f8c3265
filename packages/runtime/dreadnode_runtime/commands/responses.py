"""Responses of the short-lived processes."""

import json
from collections.abc import Awaitable, Callable
from typing import Any

from dreadnode_runtime.backend.tinker_trainer import engine_is_available
from dreadnode_runtime.control.api import redacted
from dreadnode_runtime.errors import JobFailed, RuntimeFault, TryAgain, plain

Response = dict[str, Any]


def refusal(error: str, fault: str = "request") -> Response:
    """Return an error response with one sentence."""
    return {"ok": False, "fault": fault, "error": error}


def error_response(fault: RuntimeFault) -> Response:
    """Return the error response for FAULT; only after a fault of the engine may a retry help."""
    origin = "request" if isinstance(fault, JobFailed) else "engine"
    return refusal(redacted(plain(fault)), origin)


async def response_of(work: Callable[[], Awaitable[Response]]) -> str:
    """Return the result of WORK, which needs the engine, or its error response, as JSON text."""
    try:
        # The SDK waits without a time limit for a new session.
        if not await engine_is_available():
            raise TryAgain("The engine does not respond; try again later")
        return json.dumps({"ok": True, **await work()})
    except RuntimeFault as fault:
        return json.dumps(error_response(fault))
