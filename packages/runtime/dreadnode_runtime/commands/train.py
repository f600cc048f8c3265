"""Runs one job: reads its record, and chooses the loop for its kind."""

from functools import partial
from pathlib import Path

from dreadnode_runtime.backend.tinker_policy import TinkerPolicy
from dreadnode_runtime.backend.tinker_trainer import tinker_trainer
from dreadnode_runtime.backend.usage import FILE, TokenMeter
from dreadnode_runtime.control.api import JobApi
from dreadnode_runtime.control.events import Reporter, Stop
from dreadnode_runtime.control.job_record import Job
from dreadnode_runtime.control.tracking import open_trackers
from dreadnode_runtime.errors import JobFailed
from dreadnode_runtime.evaluation.job import run_eval
from dreadnode_runtime.jobs.cost import Ledger
from dreadnode_runtime.jobs.lifecycle import JobContext, OpenTrainer
from dreadnode_runtime.rl.job import run_rl
from dreadnode_runtime.sft.job import run_sft

LOOPS = {"sft": run_sft, "rl": run_rl, "eval": run_eval}
OPEN_POLICY = partial(tinker_trainer, kind=TinkerPolicy)
"""Opens a trainer for any loop: a policy is a trainer that can also be sampled from."""


async def run_job(
    api: JobApi,
    reporter: Reporter,
    stop: Stop,
    folder: Path,
    open_trainer: OpenTrainer = OPEN_POLICY,
) -> None:
    """Train the sandbox's job, unless STOP ends it early, and report its end.

    Raises:
        RuntimeFault: The job failed (`JobFailed`), or this attempt did.
    """
    record = await api.job()
    job = Job.from_record(record)
    loop = LOOPS.get(job.trainer_type)
    if loop is None:
        raise JobFailed(f"Unknown trainer type `{job.trainer_type}`", code="config")
    ledger = Ledger.from_record(record, TokenMeter(folder / FILE))
    reporter.usage = ledger.meter.tokens
    reporter.on_record = ledger.update_limit
    stop.is_budget_exhausted = lambda: ledger.is_exhausted
    reporter.phase("starting")
    async with open_trackers(job, reporter, stop):
        end = await loop(JobContext(job, api, reporter, stop, folder, open_trainer, ledger))
    # Trackers are closed before the end is reported: the API ends the sandbox soon afterwards.
    if end is not None:
        reporter.report("training_end", **end)
