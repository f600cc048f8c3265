"""Starts programs as copies of a process that has imported their modules already.

Importing torch takes seconds, and tests start engines and runtimes again and again. This process
imports the modules that its arguments name, then forks for every request on its stdin, a socket.
A request is a JSON object with `module`, `arguments`, `environment` and `folder`, and four file
descriptors: the program's stdin, stdout and stderr, and a pipe to which this process writes the
program's process id and, when it has ended, its exit code.
"""

import contextlib
import gc
import importlib
import json
import os
import runpy
import select
import signal
import socket
import sys
from typing import Any

LARGEST = 1 << 20


def serve(requests: socket.socket) -> None:
    """Start programs until the other side closes REQUESTS."""
    read_end, write_end = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(write_end)
    pipes: dict[int, int] = {}
    while True:
        ready, _, _ = select.select([requests, read_end], [], [])
        if read_end in ready:
            os.read(read_end, 4096)
            _report_ended(pipes)
        if requests in ready:
            message, descriptors, _, _ = socket.recv_fds(requests, LARGEST, 4)
            if not message:
                return
            *streams, pipe = descriptors
            pid = os.fork()
            if pid == 0:
                _run(json.loads(message), streams)
            for each in streams:
                os.close(each)
            pipes[pid] = pipe
            os.write(pipe, b"%d\n" % pid)


def _report_ended(pipes: dict[int, int]) -> None:
    while pipes:
        pid, status = os.waitpid(-1, os.WNOHANG)
        if pid == 0:
            return
        pipe = pipes.pop(pid)
        # The test may have closed its end already.
        with contextlib.suppress(BrokenPipeError):
            os.write(pipe, b"%d\n" % os.waitstatus_to_exitcode(status))
        os.close(pipe)


def _run(request: dict[str, Any], streams: list[int]) -> None:
    """Become the program of REQUEST; this process has just been forked."""
    code = 1
    try:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        for number, stream in enumerate(streams):
            os.dup2(stream, number)
        # The server's own descriptors, among them the pipes of other programs.
        os.closerange(3, 4096)
        os.chdir(request["folder"])
        os.environ.clear()
        os.environ.update(request["environment"])
        sys.stdin, sys.stdout, sys.stderr = os.fdopen(0), os.fdopen(1, "w"), os.fdopen(2, "w")
        sys.argv = [request["module"], *request["arguments"]]
        # `runpy` warns if the module that it runs has been imported.
        sys.modules.pop(f"{request['module']}.__main__", None)
        runpy.run_module(request["module"], run_name="__main__", alter_sys=True)
        code = 0
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


if __name__ == "__main__":
    gc.disable()
    for name in sys.argv[1:]:
        importlib.import_module(name)
    # What is imported stays shared with the copies, because no collection writes to it.
    gc.freeze()
    gc.enable()
    with socket.socket(fileno=0) as given:
        serve(given)
