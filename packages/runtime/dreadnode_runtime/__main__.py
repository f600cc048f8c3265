"""Joins a job with its loop: `python -m dreadnode_runtime --job-id ID`, or or with a command.

The commands are `check`, `rows`, `chat` and `export`.

Exit codes of a job: 0, it ended and that was told; 1, it failed by its own fault and that was told;
75, something else stopped it, and another attempt may go further.
"""

import sys

from dreadnode_runtime.commands import check_rows

if __name__ == "__main__" and sys.argv[1:] == ["rows"]:
    # A push waits for this answer, so it comes before the imports that take seconds.
    sys.stdout.write(check_rows.answer(sys.stdin.read()) + "\n")
    sys.exit()

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

from dreadnode_runtime.commands import check, export
from dreadnode_runtime.commands.chat import serve, stdin_lines
from dreadnode_runtime.control.api import Settings, redacted, service
from dreadnode_runtime.control.events import Reporter, Stop
from dreadnode_runtime.errors import JobFailed, NoLongerOurs, RuntimeFault, TryAgain
from dreadnode_runtime.jobs.run import run_job

OK, FAILED, AGAIN = 0, 1, os.EX_TEMPFAIL
LAST_WORDS = 10.0
"""Seconds in which a process that is told to go may still report."""

log = logging.getLogger("dreadnode_runtime")


def main(arguments: Sequence[str] | None = None) -> int:
    """Do what ARGUMENTS ask for, and return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m dreadnode_runtime", description=__doc__)
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--job-id", help="run this job, as the environment describes")
    what.add_argument(
        "command",
        nargs="?",
        choices=["check", "chat", "export"],
        help="check the job described on stdin, or talk with the weights named there, or export "
        "them into this folder",
    )
    asked = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    # Rendering makes tensors of a few hundred numbers; the cores are the engine's.
    torch.set_num_threads(1)
    if asked.command is not None:
        answers = sys.stdout
        # Libraries print to stdout when they please; the answers must stand alone there.
        with contextlib.redirect_stdout(sys.stderr):
            tell = partial(print, file=answers, flush=True)
            if asked.command == "check":
                tell(check.answer(sys.stdin.read()))
            elif asked.command == "export":
                tell(asyncio.run(export.answer(sys.stdin.read(), Path.cwd())))
            else:
                asyncio.run(serve(stdin_lines(), tell))
        return OK
    try:
        settings = Settings.from_environment(asked.job_id, os.environ)
    except KeyError as missing:
        parser.error(f"the environment lacks {missing}")
    return asyncio.run(_run(settings))


async def _run(settings: Settings) -> int:
    stop = Stop()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, _terminate, stop)
    async with service(settings) as api, Reporter(api, settings.attempt, stop) as reporter:
        try:
            await run_job(api, reporter, stop, Path.cwd())
            if not stop.left_to_another:
                await reporter.flush()
                return OK
            reporter.log(
                "Told to stop; the next attempt goes on from the newest checkpoint, if any"
            )
            fault: RuntimeFault | None = None
        except RuntimeFault as known:
            log.warning("%s", redacted(str(known)))
            fault = known
        except Exception:
            log.exception("this is a bug of the runtime")
            fault = TryAgain("The runtime stopped by a bug of its own; its output says more")
        if isinstance(fault, NoLongerOurs):
            return AGAIN
        if fault is not None:
            _tell(fault, reporter)
        try:
            async with asyncio.timeout(None if isinstance(fault, JobFailed) else LAST_WORDS):
                await reporter.flush()
        except (RuntimeFault, TimeoutError) as unheard:
            log.warning("could not report it: %s", redacted(str(unheard)))
            return AGAIN
        return FAILED if isinstance(fault, JobFailed) else AGAIN


def _tell(fault: RuntimeFault, reporter: Reporter) -> None:
    code, whose = ("try_again", "infrastructure")
    if isinstance(fault, JobFailed):
        code, whose = fault.code, "job"
    reporter.tell(
        "training_error",
        level="error",
        message=str(fault),
        error=str(fault),
        data={"code": code, "fault": whose},
    )


def _terminate(stop: Stop) -> None:
    log.info("told to stop")
    if not stop.training:
        # Nothing to save yet, and what is being waited for may take long.
        os._exit(AGAIN)
    stop.terminated = True


if __name__ == "__main__":
    code = main()
    sys.stdout.flush()
    sys.stderr.flush()
    # A job that has ended is not held up by what a tracker's library still wants to do at exit.
    os._exit(code)
