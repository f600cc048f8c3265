"""What a Ray Job runs: `python -m dreadnode_api.sandbox.ray_entry`, on whichever machine Ray picks.

It is sent there together with `supervisor.py`, imports nothing else, and stands over the sandbox as
the warden does on the server's own machine: the same limits, the same end. What is left of it is
its output, printed at the end, and its exit code, in which `encode` and `decode` carry how the
sandbox ended.
"""

import json
import os
import signal
import sys
import tempfile
from pathlib import Path

from dreadnode_api.sandbox import supervisor as warden

ORDER = "DREADNODE_ORDER"
"""The variable that holds the order: what to run, with which environment, within which limits."""

_REASONS = (
    "memory", "cpu_time", "wall_time", "disk", "processes", "orphaned", "stopped", "killed",
)  # fmt: skip
_FIRST_REASON = 200
_FIRST_SIGNAL = 128


def encode(code: int, reason: str | None) -> int:
    """Return the exit code that tells how a sandbox ended; those below 128 are its own."""
    if reason is not None:
        return _FIRST_REASON + _REASONS.index(reason)
    return _FIRST_SIGNAL - code if code < 0 else min(code, _FIRST_SIGNAL - 1)


def decode(code: int) -> tuple[int, str | None]:
    """Return the sandbox's code, or minus the signal that killed it, and the reason."""
    if _FIRST_REASON <= code < _FIRST_REASON + len(_REASONS):
        return -signal.SIGKILL, _REASONS[code - _FIRST_REASON]
    return (_FIRST_SIGNAL - code if code > _FIRST_SIGNAL else code), None


def main() -> int:
    """Run the sandbox of the order and return how it ended, encoded."""
    order = json.loads(os.environ.pop(ORDER))
    with tempfile.TemporaryDirectory(prefix="sandbox-") as name:
        folder = Path(name)
        home = str(folder / "work")
        # The programs and the temporary files are this machine's, not the server's.
        order["environment"] |= {"PATH": os.environ["PATH"], "HOME": home, "TMPDIR": home}
        if not order["command"][0]:
            order["command"][0] = sys.executable
        stands = warden.Warden(folder, order)
        for number in (signal.SIGTERM, signal.SIGQUIT):
            signal.signal(number, lambda got, _frame: stands.wanted.append(got))
        stands.run()
        for part in ("output.1.log", "output.log"):
            if (folder / part).exists():
                sys.stdout.buffer.write((folder / part).read_bytes())
        sys.stdout.flush()
        ended = json.loads((folder / "exit.json").read_text())
    return encode(int(ended["code"]), ended["reason"])


if __name__ == "__main__":
    sys.exit(main())
