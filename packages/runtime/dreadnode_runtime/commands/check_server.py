"""Answers checks one after the other, each in a fork of a process that has loaded everything.

Loading the libraries and a tokenizer takes seconds, and a check of a few rows takes milliseconds.
This process therefore stays, and every check runs in a fork that ends with it: it can use all that
is loaded, and leaves none of its data behind for the next one.
"""

import contextlib
import gc
import json
import os
import sys
import traceback
from collections.abc import Callable, Iterable
from typing import Any

from dreadnode_runtime.commands import check
from dreadnode_runtime.data.load_rendering import load_rendering
from dreadnode_runtime.errors import JobFailed

PING = {"ping": True}


def serve(lines: Iterable[str], emit: Callable[[str], None]) -> None:
    """Answer each of LINES, a request as JSON, through EMIT until they end.

    The request `{"ping": true}` is answered immediately: this process has loaded everything.

    Raises:
        ChildProcessError: A fork ended without a response.
    """
    # What is loaded stays shared with the forks, because no collection writes to it.
    gc.freeze()
    for line in lines:
        if not line.strip():
            continue
        request = json.loads(line)
        if request == PING:
            emit(json.dumps({"ok": True}))
        elif sys.platform == "darwin":
            # System libraries there do not survive a fork, so this process answers only once.
            emit(check.answer(line))
            return
        else:
            emit(_answer(line, request))


def _answer(line: str, request: dict[str, Any]) -> str:
    _load(request)
    reading, writing = os.pipe()
    pid = os.fork()
    if not pid:
        os.close(reading)
        _answer_and_exit(line, writing)
    os.close(writing)
    with os.fdopen(reading, encoding="utf-8") as pipe:
        # One line, and not the end of the pipe, which a process of the fork may hold open.
        response = pipe.readline()
    _, status = os.waitpid(pid, 0)
    if not response.endswith("\n"):
        code = os.waitstatus_to_exitcode(status)
        raise ChildProcessError(f"the check ended with {code} and without a response")
    return response.rstrip("\n")


def _load(request: dict[str, Any]) -> None:
    """Load the tokenizer and the renderer before the fork, so that the next check has them too.

    A tokenizer that the job names is loaded in the fork: its files may be anything.
    """
    if (request.get("config") or {}).get("tokenizer") is not None:
        return
    # The check itself reports what cannot be loaded.
    with contextlib.suppress(JobFailed, KeyError, TypeError):
        load_rendering(
            request["model"], rehearsal=request["rehearsal"], tokenizer=request["tokenizer"]
        )


def _answer_and_exit(line: str, writing: int) -> None:
    code = 1
    try:
        response = check.answer(line)
        with os.fdopen(writing, "w", encoding="utf-8") as pipe:
            pipe.write(response + "\n")
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(code)
