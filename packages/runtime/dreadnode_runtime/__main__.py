"""The runtime's command line: `python -m dreadnode_runtime --job-id ID`, or with a command.

The commands are `check`, `rows`, `serve`, `export` and `upload`.

Exit codes of a job: 0, it ended and the end was reported; 1, it failed and that was reported; 75,
this attempt failed, and another attempt may resume.
"""

import sys

from dreadnode_runtime.commands import check_rows

if __name__ == "__main__" and sys.argv[1:] == ["rows"]:
    # A push waits for this response, so it comes before the imports that take seconds.
    sys.stdout.write(check_rows.answer(sys.stdin.read()) + "\n")
    sys.exit()

import gc

# Imports make many objects and no garbage; looking for it takes a sixth of the start.
gc.disable()

import argparse
import asyncio
import contextlib
import logging
import os
import signal
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import torch

from dreadnode_runtime.commands import check_server, export, upload
from dreadnode_runtime.commands.serve import serve, stdin_lines
from dreadnode_runtime.commands.train import run_job
from dreadnode_runtime.control.api import Settings, connect, redacted
from dreadnode_runtime.control.events import Reporter, Stop
from dreadnode_runtime.errors import AttemptRejected, JobFailed, RuntimeFault, TryAgain

OK, FAILED, AGAIN = 0, 1, os.EX_TEMPFAIL
FINAL_REPORT_SECONDS = 10.0
"""Time limit of the last report of an attempt that another one may resume."""

log = logging.getLogger("dreadnode_runtime")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command that ARGUMENTS name, and return the exit code."""
    gc.freeze()
    gc.enable()
    # On a machine of a Ray cluster, data and weights are written beside those of others.
    os.umask(0o077)
    parser = argparse.ArgumentParser(prog="python -m dreadnode_runtime", description=__doc__)
    action = parser.add_mutually_exclusive_group(required=True)
    action.add_argument("--job-id", help="train this job, with the settings in the environment")
    action.add_argument(
        "command",
        nargs="?",
        choices=["check", "rows", "serve", "export", "upload"],
        help="check the job or the rows on stdin, serve the model on stdin, export a checkpoint "
        "into the current folder, or upload the adapter there",
    )
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    # Rendering uses tensors of a few hundred numbers; the cores are for the engine.
    torch.set_num_threads(1)
    if options.command is not None:
        _run_command(options.command)
        return OK
    try:
        settings = Settings.from_environment(options.job_id, os.environ)
    except KeyError as missing:
        parser.error(f"the environment variable {missing} is not set")
    return asyncio.run(_run(settings))


def _run_command(command: str) -> None:
    """Run a short-lived COMMAND: JSON from stdin, JSON to stdout."""
    stdout = sys.stdout
    # Libraries may print to stdout; only responses belong there.
    with contextlib.redirect_stdout(sys.stderr):
        emit = partial(print, file=stdout, flush=True)
        if command == "check":
            check_server.serve(sys.stdin, emit)
        elif command == "rows":
            emit(check_rows.answer(sys.stdin.read()))
        elif command == "export":
            emit(asyncio.run(export.run(sys.stdin.read(), Path.cwd())))
        elif command == "upload":
            emit(asyncio.run(upload.run(sys.stdin.read(), Path.cwd())))
        else:
            asyncio.run(serve(stdin_lines(), emit))


async def _run(settings: Settings) -> int:
    stop = Stop()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, _terminate, stop)
    async with connect(settings) as api, Reporter(api, settings.attempt, stop) as reporter:
        try:
            await run_job(api, reporter, stop, Path.cwd())
            if not stop.leave_to_next_attempt:
                await reporter.flush()
                return OK
            reporter.log("The process was told to stop; the next attempt resumes the job")
            fault: RuntimeFault | None = None
        except RuntimeFault as known:
            log.warning("%s", redacted(str(known)))
            fault = known
        except Exception:
            log.exception("this is a bug of the runtime")
            fault = TryAgain("The runtime stopped because of a bug; its output has a traceback")
        if isinstance(fault, AttemptRejected):
            return AGAIN
        if fault is not None:
            _report(fault, reporter)
        try:
            limit = None if isinstance(fault, JobFailed) else FINAL_REPORT_SECONDS
            async with asyncio.timeout(limit):
                await reporter.flush()
        except (RuntimeFault, TimeoutError) as undelivered:
            log.warning("the report was not delivered: %s", redacted(str(undelivered)))
            return AGAIN
        return FAILED if isinstance(fault, JobFailed) else AGAIN


def _report(fault: RuntimeFault, reporter: Reporter) -> None:
    code, origin = ("try_again", "infrastructure")
    if isinstance(fault, JobFailed):
        code, origin = fault.code, "job"
    reporter.report(
        "training_error",
        level="error",
        message=str(fault),
        error=str(fault),
        data={"code": code, "fault": origin},
    )


def _terminate(stop: Stop) -> None:
    log.info("received SIGTERM")
    if not stop.training:
        # There is nothing to save yet, and the current wait can be long.
        os._exit(AGAIN)
    stop.terminated = True


if __name__ == "__main__":
    code = main()
    sys.stdout.flush()
    sys.stderr.flush()
    # Exit handlers of tracker libraries must not delay the end of a job.
    os._exit(code)
