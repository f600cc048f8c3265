"""Runs user code in this process, confined: `python -I -m dreadnode_runtime.user_code.confined`.

It reads one JSON object per line from stdin: first the settings and the source, then calls of its
functions. It writes one JSON object per line to stdout: the limits that hold, then the result of
loading the source, then the result of each call, each with the number of its request. Output of the
code goes to a file of limited size, never into the responses.
"""

import errno
import json
import math
import os
import resource
import sys
import traceback
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from dreadnode_runtime.user_code.isolation import confine

MAX_OUTPUT = 1 << 20
"""Bytes that one call may print or write."""
MAX_REASON_LENGTH = 300


def main() -> None:
    """Confine this process, load the source, and respond to calls until the input ends."""
    requests, responses = _private_pipes()
    setup = json.loads(requests.readline())
    output = _limited_output(setup["output"])
    limits = confine(setup["memory_mb"] << 20, setup["root"], namespaces=setup["namespaces"])
    # The limits are reported before any user code runs, so that it cannot report others.
    _respond(responses, {"confined": [*limits, f"at most {MAX_OUTPUT >> 10} KiB of output"]})
    name = setup["filename"]
    functions: dict[str, Any] = {"__name__": Path(name).stem}
    load = partial(_load, setup["source"], name, setup["functions"], functions)
    _respond(responses, {"id": 0, **(_attempt(load, name) or {"loaded": True})})
    for line in requests:
        request = json.loads(line)
        result = _attempt(partial(_call, functions, request), name)
        _reset_output(output)
        _respond(responses, {"id": request["id"], **result})


def _load(source: str, name: str, wanted: list[str], functions: dict[str, Any]) -> None:
    exec(compile(source, name, "exec"), functions)  # noqa: S102
    for function in wanted:
        if not callable(functions.get(function)):
            raise NameError(f"it defines no function `{function}`")  # noqa: TRY004


def _call(functions: dict[str, Any], request: dict[str, Any]) -> dict[str, Any]:
    value = functions[request["function"]](*request["arguments"])
    return {"value": _number(value) if request["number"] else value}


def _number(value: Any) -> float:
    if isinstance(value, str | bytes) or not hasattr(value, "__float__"):
        raise TypeError(f"it returned {type(value).__name__}, not a number")
    number = float(value)
    if not math.isfinite(number):
        raise ValueError(f"it returned {number}, not a finite number")
    return number


def _attempt(work: Callable[[], Any], name: str) -> Any:
    """Return the result of WORK, or its error; no exception of user code passes."""
    try:
        return work()
    except BaseException as error:
        if isinstance(error, OSError) and error.errno == errno.EFBIG:
            return {"error": f"it printed or wrote more than {MAX_OUTPUT} bytes"}
        frames = traceback.extract_tb(error.__traceback__)
        own = [frame for frame in frames if frame.filename == name]
        line = own[-1].lineno if own else getattr(error, "lineno", None)
        where = f" (line {line} of {name})" if line else ""
        reason = f": {str(error)[:MAX_REASON_LENGTH]}" if str(error) else ""
        return {"error": f"{type(error).__name__}{reason}{where}"}


def _respond(responses: Any, response: dict[str, Any]) -> None:
    try:
        text = json.dumps(response)
    except (TypeError, ValueError) as error:
        reason = f"what it returned cannot be written as JSON: {error}"
        text = json.dumps({"id": response.get("id"), "error": reason})
    responses.write(text + "\n")
    responses.flush()


def _private_pipes() -> tuple[Any, Any]:
    """Return copies of stdin and stdout for the protocol, and close stdin."""
    requests, responses = os.fdopen(os.dup(0), encoding="utf-8"), os.fdopen(os.dup(1), "w")
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.close(null)
    return requests, responses


def _limited_output(path: str) -> int:
    """Redirect stdout and stderr to the file at PATH, which cannot grow beyond its limit."""
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.dup2(file, 1)
    os.dup2(file, 2)
    resource.setrlimit(resource.RLIMIT_FSIZE, (MAX_OUTPUT, MAX_OUTPUT))
    return file


def _reset_output(output: int) -> None:
    """Discard what was printed, also in buffers, so that each call has the whole limit."""
    for _ in range(2):
        os.ftruncate(output, 0)
        for stream in (sys.stdout, sys.stderr):
            try:
                stream.flush()
            except (OSError, ValueError):
                continue


if __name__ == "__main__":
    main()
