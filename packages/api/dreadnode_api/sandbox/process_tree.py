"""A process and all its descendants: their identity, what they use together, and their end."""

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36
KILL_SECONDS = 10.0
PROC = Path("/proc")
LIBC = ctypes.CDLL(None) if sys.platform == "linux" else None


def identity(pid: int) -> str | None:
    """Return a string that identifies a process among all with its number; None if it has ended.

    It holds the boot and the process's start in ticks since then, which no clock change moves.
    """
    try:
        stat = (PROC / str(pid) / "stat").read_text()
        boot = (PROC / "sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return _identity_without_proc(pid)
    fields = stat.rpartition(")")[2].split()
    # A zombie has ended.
    return None if fields[0] in "ZX" else f"{boot}:{fields[19]}"


def _identity_without_proc(pid: int) -> str | None:
    if (PROC / "self").exists():
        return None
    command = ["ps", "-o", "lstart=", "-p", str(pid)]
    found = subprocess.run(command, capture_output=True, text=True, check=False)
    return found.stdout.strip() or None


def bind_to_parent(parent: int, number: int) -> None:
    """Have the kernel send signal `number` to this process when `parent` ends."""
    if LIBC is not None:
        LIBC.prctl(PR_SET_PDEATHSIG, number, 0, 0, 0)
        if os.getppid() != parent:
            os._exit(1)  # The parent ended before the call above.


def become_subreaper() -> None:
    """Make orphaned descendants children of this process, so that they can be ended."""
    if LIBC is not None:
        LIBC.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def measure(limits: dict[str, int]) -> tuple[int, str | None]:
    """Return the memory of all descendants in bytes, and the limit that they exceed together."""
    members = descendants(os.getpid())
    used = sum(_resident(pid) for pid in members)
    if len(members) > limits["processes"]:
        return used, "processes"
    return used, "memory" if used > limits["memory_bytes"] else None


def end_tree(process: subprocess.Popen[bytes]) -> None:
    """Kill and reap `process` and all descendants, also those in other sessions."""
    send_signal(-process.pid, signal.SIGKILL)
    process.wait()
    until = time.monotonic() + KILL_SECONDS
    while (left := descendants(os.getpid())) and time.monotonic() < until:
        for pid in left:
            send_signal(pid, signal.SIGKILL)
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        time.sleep(0.01)


def send_signal(pid: int, number: int) -> None:
    """Send a signal to a process, or to a group (minus its number), unless it has ended."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


def descendants(root: int) -> list[int]:
    """Return the living descendants of `root`, without `root` itself."""
    children: dict[int, list[int]] = {}
    for entry in PROC.glob("[0-9]*/stat"):
        try:
            state, parent = entry.read_text().rpartition(")")[2].split()[:2]
        except (OSError, ValueError):
            continue
        if state not in "ZX":
            children.setdefault(int(parent), []).append(int(entry.parent.name))
    found = list(children.get(root, []))
    for pid in found:  # It grows while it is walked.
        found += children.get(pid, [])
    return found


def _resident(pid: int) -> int:
    with contextlib.suppress(OSError, ValueError, IndexError):
        pages = (PROC / str(pid) / "statm").read_text().split()[1]
        return int(pages) * os.sysconf("SC_PAGE_SIZE")
    return 0
