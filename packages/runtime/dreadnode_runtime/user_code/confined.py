"""Runs a person's own code, confined as far as this system can: a program of its own.

Started as `python -I confined.py`, it needs nothing but the standard library. It reads one JSON
object a line: first the limits and the source, then calls of its functions; and answers each with
one line. Whatever the code prints goes to a file of bounded size, never into the answers.

| limit | by |
| --- | --- |
| no network | a network namespace of its own, else Landlock for TCP |
| no files but Python's own, none to write | Landlock |
| no other processes to see or signal | a process namespace of its own |
| memory, open files, bytes written, processes | resource limits |
"""

import ctypes
import errno
import importlib
import json
import math
import os
import resource
import signal
import sys
import traceback
from collections.abc import Callable
from functools import partial
from typing import Any

NAME = "reward.py"
"""What the source is called in its own error messages."""
PRINTED = 1 << 20
"""Bytes that one call may print or write."""
LONGEST_REASON = 300

_NEWUSER, _NEWPID, _NEWNET, _NEWIPC = 0x10000000, 0x20000000, 0x40000000, 0x08000000
_PR_SET_PDEATHSIG, _PR_SET_NO_NEW_PRIVS = 1, 38
_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
_EXECUTE, _READ_FILE, _READ_DIR = 1 << 0, 1 << 2, 1 << 3
_READABLE = ("/usr", "/lib", "/lib64", "/etc/ld.so.cache", "/etc/localtime", "/dev/urandom")


class _Ruleset(ctypes.Structure):
    _fields_ = (
        ("files", ctypes.c_uint64),
        ("network", ctypes.c_uint64),
        ("scoped", ctypes.c_uint64),
    )


class _PathBeneath(ctypes.Structure):
    _pack_ = 1
    _fields_ = (("allowed", ctypes.c_uint64), ("folder", ctypes.c_int32))


def main() -> None:
    """Confine this process, load the source, and answer calls until the input ends."""
    requests, answers = _private_pipes()
    setup = json.loads(requests.readline())
    confined = _confine(setup["memory_mb"] << 20)
    output = _bounded_output(setup["output"])
    confined += _landlock()
    functions: dict[str, Any] = {"__name__": "reward"}
    error = _attempt(lambda: _load(setup["source"], setup["functions"], functions))
    _answer(answers, error or {"confined": confined})
    for line in requests:
        answer = _attempt(partial(_call, functions, json.loads(line)))
        _rewind(output)
        _answer(answers, answer)


def _load(source: str, wanted: list[str], functions: dict[str, Any]) -> None:
    exec(compile(source, NAME, "exec"), functions)  # noqa: S102
    for name in wanted:
        if not callable(functions.get(name)):
            raise NameError(f"it defines no function `{name}`")  # noqa: TRY004


def _call(functions: dict[str, Any], asked: dict[str, Any]) -> dict[str, Any]:
    value = functions[asked["function"]](*asked["arguments"])
    return {"value": _number(value) if asked["number"] else value}


def _number(value: Any) -> float:
    if isinstance(value, str | bytes) or not hasattr(value, "__float__"):
        raise TypeError(f"it returned {type(value).__name__}, not a number")
    number = float(value)
    if not math.isfinite(number):
        raise ValueError(f"it returned {number}, not a finite number")
    return number


def _attempt(work: Callable[[], Any]) -> Any:
    """Return what WORK returns, or what went wrong; whatever a person's code does ends here."""
    try:
        return work()
    except BaseException as error:
        if isinstance(error, OSError) and error.errno == errno.EFBIG:
            return {"error": f"it printed or wrote more than {PRINTED} bytes"}
        frames = traceback.extract_tb(error.__traceback__)
        own = [frame for frame in frames if frame.filename == NAME]
        line = own[-1].lineno if own else getattr(error, "lineno", None)
        where = f" (line {line} of its source)" if line else ""
        said = f": {str(error)[:LONGEST_REASON]}" if str(error) else ""
        return {"error": f"{type(error).__name__}{said}{where}"}


def _answer(answers: Any, answer: Any) -> None:
    try:
        text = json.dumps(answer)
    except (TypeError, ValueError) as error:
        text = json.dumps({"error": f"what it returned cannot be written as JSON: {error}"})
    answers.write(text + "\n")
    answers.flush()


def _private_pipes() -> tuple[Any, Any]:
    """Take stdin and stdout for the protocol, and leave nothing in their places."""
    requests, answers = os.fdopen(os.dup(0), encoding="utf-8"), os.fdopen(os.dup(1), "w")
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.close(null)
    return requests, answers


def _bounded_output(path: str) -> int:
    """Send what is printed to the file at PATH, which cannot grow beyond its limit."""
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.dup2(file, 1)
    os.dup2(file, 2)
    resource.setrlimit(resource.RLIMIT_FSIZE, (PRINTED, PRINTED))
    return file


def _rewind(output: int) -> None:
    """Forget what was printed, buffers included, so that each call has the whole limit."""
    for _ in range(2):
        os.ftruncate(output, 0)
        for stream in (sys.stdout, sys.stderr):
            try:
                stream.flush()
            except (OSError, ValueError):
                continue


def _confine(memory: int) -> list[str]:
    """Set the limits that need no files to be known, and say which ones hold."""
    for kind, most in (
        (resource.RLIMIT_AS, memory),
        (resource.RLIMIT_NOFILE, 64),
        (resource.RLIMIT_CORE, 0),
    ):
        hard = resource.getrlimit(kind)[1]
        most = most if hard == resource.RLIM_INFINITY else min(most, hard)
        resource.setrlimit(kind, (most, most))
    done = [f"at most {memory >> 20} MiB of memory and {PRINTED >> 10} KiB of output"]
    if not sys.platform.startswith("linux"):
        return done
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    if libc.unshare(_NEWUSER | _NEWPID | _NEWNET | _NEWIPC):
        return done
    # Only a child is in the new process namespace; when it ends, so does all that it started.
    child = os.fork()
    if child:
        _, status = os.waitpid(child, 0)
        os._exit(os.waitstatus_to_exitcode(status) & 0xFF)
    libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    resource.setrlimit(resource.RLIMIT_NPROC, (64, 64))
    return ["no network", "no sight of other processes", *done]


def _landlock() -> list[str]:
    """Close the file system, but for reading Python and system libraries, with Landlock."""
    if not sys.platform.startswith("linux"):
        return []
    libc = ctypes.CDLL(None, use_errno=True)
    version = libc.syscall(_CREATE_RULESET, None, 0, 1)
    if version < 1:
        return []
    files = (1 << 13) - 1  # What the first version knows; later ones add to it.
    files |= (1 << 13 if version >= 2 else 0) | (1 << 14 if version >= 3 else 0)
    rules = _Ruleset(files, 3 if version >= 4 else 0, 3 if version >= 6 else 0)
    size = 24 if version >= 6 else 16 if version >= 4 else 8
    ruleset = libc.syscall(_CREATE_RULESET, ctypes.byref(rules), size, 0)
    if ruleset < 0:
        return []
    importlib.import_module("encodings.idna")  # Loaded late by the standard library otherwise.
    for path in (*_READABLE, sys.prefix, sys.base_prefix, sys.base_exec_prefix):
        try:
            folder = os.open(path, os.O_PATH | os.O_CLOEXEC)
        except OSError:
            continue
        allowed = _EXECUTE | _READ_FILE | (_READ_DIR if os.path.isdir(path) else 0)  # noqa: PTH112
        beneath = _PathBeneath(allowed, folder)
        libc.syscall(_ADD_RULE, ruleset, 1, ctypes.byref(beneath), 0)
        os.close(folder)
    if libc.syscall(_RESTRICT_SELF, ruleset, 0):
        return []
    os.close(ruleset)
    told = ["no files but Python's own, read-only"]
    return [*told, "no TCP connections"] if version >= 4 else told


if __name__ == "__main__":
    main()
