"""One job from its record to its end: what kind it is, and the loop for that."""

from functools import partial
from pathlib import Path

from dreadnode_runtime.backend.tinker_policy import TinkerPolicy
from dreadnode_runtime.backend.tinker_trainer import tinker_trainer
from dreadnode_runtime.control.api import Service
from dreadnode_runtime.control.events import Reporter, Stop
from dreadnode_runtime.control.tracking import followed
from dreadnode_runtime.errors import JobFailed
from dreadnode_runtime.jobs.lifecycle import Job, OpenTrainer, Work
from dreadnode_runtime.rl.job import run_rl
from dreadnode_runtime.sft.job import run_sft

LOOPS = {"sft": run_sft, "rl": run_rl}
OPEN_POLICY = partial(tinker_trainer, kind=TinkerPolicy)
"""Makes what every loop can train: a policy is a trainer that can be drawn from."""


async def run_job(
    service: Service,
    reporter: Reporter,
    stop: Stop,
    folder: Path,
    open_trainer: OpenTrainer = OPEN_POLICY,
) -> None:
    """Train the sandbox's job to its end, or to where STOP ends it, and tell how it ended.

    Raises:
        RuntimeFault: It cannot go on; whose fault it is, is the class.
    """
    job = Job.read(await service.job())
    loop = LOOPS.get(job.trainer_type)
    if loop is None:
        raise JobFailed(f"There is no loop for {job.trainer_type} here", code="config")
    reporter.phase("starting")
    async with followed(job, reporter, stop):
        await loop(Work(job, service, reporter, stop, folder, open_trainer))
