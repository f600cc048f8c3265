"""Error responses of the short-lived processes."""

from typing import Any

from dreadnode_runtime.control.api import redacted
from dreadnode_runtime.errors import JobFailed, RuntimeFault, plain

Response = dict[str, Any]


def refusal(error: str, fault: str = "request") -> Response:
    """Return an error response with one sentence."""
    return {"ok": False, "fault": fault, "error": error}


def error_response(fault: RuntimeFault) -> Response:
    """Return the error response for FAULT; only after a fault of the engine may a retry help."""
    origin = "request" if isinstance(fault, JobFailed) else "engine"
    return refusal(redacted(plain(fault)), origin)
