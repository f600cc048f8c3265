"""Joins a job with its loop: `python -m dreadnode_runtime --job-id ID`, or `… check`.

Exit codes of a job: 0, it ended and that was told; 1, it failed by its own fault and that was told;
75, something else stopped it, and another attempt may go further.
"""

import argparse
import asyncio
import contextlib
import logging
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from dreadnode_runtime.check import answer
from dreadnode_runtime.errors import JobFailed, NoLongerOurs, RuntimeFault, TryAgain
from dreadnode_runtime.job import run_job
from dreadnode_runtime.report import Reporter, Stop
from dreadnode_runtime.service import Settings, redacted, service

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
        "command", nargs="?", choices=["check"], help="check the job described on stdin"
    )
    asked = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    # Rendering makes tensors of a few hundred numbers; the cores are the engine's.
    torch.set_num_threads(1)
    if asked.command == "check":
        # Libraries print to stdout when they please; the answer must stand alone there.
        with contextlib.redirect_stdout(sys.stderr):
            answered = answer(sys.stdin.read())
        sys.stdout.write(answered + "\n")
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
            if not stop.terminated:
                await reporter.flush()
                return OK
            reporter.log("Stopped after a checkpoint; the next attempt goes on from there")
        except JobFailed as fault:
            return await _failed(fault, reporter)
        except NoLongerOurs as fault:
            log.warning("%s", redacted(str(fault)))
            return AGAIN
        except TryAgain as fault:
            log.warning("%s", redacted(str(fault)))
            reporter.log(f"{fault}; another attempt may go further", level="warning")
        except Exception:
            log.exception("this is a bug of the runtime; another attempt may go further")
            reporter.log("The runtime stopped by a bug of its own", level="error")
        with contextlib.suppress(RuntimeFault, TimeoutError):
            async with asyncio.timeout(LAST_WORDS):
                await reporter.flush()
        return AGAIN


async def _failed(fault: JobFailed, reporter: Reporter) -> int:
    log.error("%s", redacted(str(fault)))
    reporter.tell(
        "training_error",
        level="error",
        message=str(fault),
        error=str(fault),
        data={"code": fault.code, "fault": "job"},
    )
    try:
        await reporter.flush()
    except RuntimeFault as unheard:
        log.warning("could not report it: %s", unheard)
        return AGAIN
    return FAILED


def _terminate(stop: Stop) -> None:
    log.info("told to stop")
    if not stop.training:
        # Nothing to save yet, and what is being waited for may take long.
        os._exit(AGAIN)
    stop.terminated = True


if __name__ == "__main__":
    sys.exit(main())
