"""Supervises one child process of the service: `child_supervisor.py LIMITS PARENT COMMAND...`.

It runs as `python -I -S`, because every check, chat and export pays for its start. The command
shares stdin, stdout and stderr with it, and its whole tree ends with the command, with PARENT, or
on SIGTERM. The exit code says how it ended; see `exit_codes`.
"""

import json
import os
import signal
import subprocess
import sys
import time
from functools import partial

if not __package__:
    # Run as a file, without site-packages.
    sys.path.append(os.path.dirname(os.path.dirname(os.path.dirname(__file__))))  # noqa: PTH120

from dreadnode_api.sandbox.exit_codes import encode
from dreadnode_api.sandbox.limits import apply_limits
from dreadnode_api.sandbox.process_tree import become_subreaper, bind_to_parent, end_tree, measure
from dreadnode_api.sandbox.signals import ArrivedSignals

MEASURE_EVERY = 0.1
MEASURE_SHARE = 0.01


def supervise(limits: dict[str, int], parent: int, command: list[str]) -> int:
    """Run `command` on this process's own pipes, and return how it ended, encoded."""
    signals = ArrivedSignals(signal.SIGTERM)
    bind_to_parent(parent, signal.SIGTERM)
    become_subreaper()
    start = partial(apply_limits, limits, os.getpid())
    try:
        process = subprocess.Popen(command, start_new_session=True, preexec_fn=start)
    except OSError as error:
        print(f"{command[0]} cannot be started: {error}", file=sys.stderr, flush=True)  # noqa: T201
        return 127
    # Only the command may hold the pipes, so that its end is visible on them.
    for descriptor in (0, 1):
        os.dup2(os.open(os.devnull, os.O_RDWR), descriptor)
    reason = None
    measure_at = time.monotonic() + MEASURE_EVERY
    while reason is None and process.poll() is None:
        signals.wait(max(0.0, measure_at - time.monotonic()))
        started = time.monotonic()
        if signal.SIGTERM in signals:
            reason = "stopped"
        elif started >= measure_at:
            reason = measure(limits)[1]
            ended = time.monotonic()
            # On a machine with many processes a look takes longer, and must stay a small share.
            measure_at = ended + max(MEASURE_EVERY, (ended - started) / MEASURE_SHARE)
    end_tree(process)
    if reason is None and process.returncode == -signal.SIGXCPU:
        reason = "cpu_time"
    return encode(process.returncode, reason)


if __name__ == "__main__":
    # Not `sys.exit`, which restores the default of SIGTERM before the code is set.
    os._exit(supervise(json.loads(sys.argv[1]), int(sys.argv[2]), sys.argv[3:]))
