"""What the short-lived processes answer in place of what they were asked for: why there is none."""

from typing import Any

from dreadnode_runtime.control.api import redacted
from dreadnode_runtime.errors import JobFailed, RuntimeFault, plain

Answer = dict[str, Any]


def refusal(error: str, fault: str = "request") -> Answer:
    """Return an answer that says in one sentence why there is no other."""
    return {"ok": False, "fault": fault, "error": error}


def answer_of(fault: RuntimeFault) -> Answer:
    """Return an answer that says what went wrong, and whether another try may help."""
    whose = "request" if isinstance(fault, JobFailed) else "engine"
    return refusal(redacted(plain(fault)), whose)
