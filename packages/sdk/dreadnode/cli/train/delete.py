"""`dn train delete`."""

from __future__ import annotations

from typing import Annotated

from cyclopts import Parameter

from dreadnode.cli import views
from dreadnode.cli.context import DEFAULT, Common
from dreadnode.cli.output import say
from dreadnode.cli.train.checkpoints import CHECKPOINTS
from dreadnode.cli.train.jobs import Job


def delete(
    job: Job,
    /,
    *,
    checkpoint: Annotated[
        str | None,
        Parameter(help="Delete only the checkpoint with this name, for example `step-000010`."),
    ] = None,
    common: Common = DEFAULT,
) -> None:
    """Delete an ended job with its log, files, adapter and checkpoints.

    A job that runs, or that another job retries, is refused. So is a checkpoint from which an
    unfinished job would resume. The engine frees the weights with its next cleanup.
    """
    with common.client() as client:
        job_id = client.find_training_job(job)
        if checkpoint is None:
            deleted = client.delete_training_job(job_id)
            say(f"deleted job {job_id} with its log, files and checkpoints")
            common.out.record(deleted, views.JOB)
            return
        left = client.delete_training_job_checkpoint(job_id, checkpoint)
    say(f"deleted checkpoint {checkpoint} of job {job_id}")
    common.out.rows(left.items, CHECKPOINTS, none="no checkpoints")
