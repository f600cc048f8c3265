"""The limits that a process applies to itself before it becomes a supervised program."""

import os
import resource
import signal
import time

from dreadnode_api.sandbox.process_tree import PROC, bind_to_parent

AUTOGROUP_ATTEMPTS = 40


def apply_limits(limits: dict[str, int], parent: int) -> None:
    """Apply the limits that the kernel enforces, and end with `parent`."""
    bind_to_parent(parent, signal.SIGKILL)
    for kind, bound in (
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_NOFILE, limits["open_files"]),
        (resource.RLIMIT_CPU, limits["cpu_seconds"]),
        (resource.RLIMIT_FSIZE, limits["disk_bytes"]),
        (resource.RLIMIT_DATA, limits["memory_bytes"]),
    ):
        hard = resource.getrlimit(kind)[1]
        limit = bound if hard == resource.RLIM_INFINITY else min(bound, hard)
        resource.setrlimit(kind, (limit, limit))
    if niceness := limits.get("niceness", 0):
        lower_priority(niceness)


def lower_priority(niceness: int) -> None:
    """Let other processes run first.

    Where Linux groups processes by session, a niceness counts only among those of its session, so
    the group of this one gets it too.
    """
    os.nice(niceness)
    for _ in range(AUTOGROUP_ATTEMPTS):
        try:
            (PROC / "self/autogroup").write_text(str(niceness))
        except BlockingIOError:
            time.sleep(0.05)  # Linux takes ten such changes a second, of all processes together.
        except OSError:
            return
        else:
            return
