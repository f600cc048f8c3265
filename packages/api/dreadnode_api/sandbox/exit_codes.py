"""One exit code for how a process ended: its own code, its signal, or the limit it exceeded."""

import signal

REASONS = (
    "memory", "cpu_time", "wall_time", "disk", "processes", "orphaned", "stopped", "killed",
)  # fmt: skip
_FIRST_REASON = 200
_FIRST_SIGNAL = 128


def encode(code: int, reason: str | None) -> int:
    """Return one exit code for how a process ended; codes below 128 are the process's own."""
    if reason is not None:
        return _FIRST_REASON + REASONS.index(reason)
    return _FIRST_SIGNAL - code if code < 0 else min(code, _FIRST_SIGNAL - 1)


def decode(code: int) -> tuple[int, str | None]:
    """Return the process's own code, or minus the signal that killed it, and the reason."""
    if _FIRST_REASON <= code < _FIRST_REASON + len(REASONS):
        return -signal.SIGKILL, REASONS[code - _FIRST_REASON]
    return (_FIRST_SIGNAL - code if code > _FIRST_SIGNAL else code), None
