"""`dn train checkpoints`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dreadnode.cli import views
from dreadnode.cli.context import DEFAULT, Common
from dreadnode.cli.output import Column, say
from dreadnode.cli.train.jobs import Job

if TYPE_CHECKING:
    from dreadnode.training.checkpoints import Checkpoint


def _state(checkpoint: Checkpoint) -> str:
    marks = [name for name in ("final", "best") if getattr(checkpoint, name)]
    return ", ".join([checkpoint.state, *marks])


def _metrics(checkpoint: Checkpoint) -> str:
    return ", ".join(
        f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {value}"
        for name, value in checkpoint.metrics.items()
    )


CHECKPOINTS: tuple[Column, ...] = (
    ("step", lambda checkpoint: checkpoint.step),
    ("state", _state),
    ("kind", lambda checkpoint: checkpoint.kind),
    ("metrics", _metrics),
    ("bytes", lambda checkpoint: checkpoint.bytes),
    ("created", lambda checkpoint: views.when(checkpoint.created_at)),
    ("path", lambda checkpoint: checkpoint.path),
)


def checkpoints(job: Job, /, *, common: Common = DEFAULT) -> None:
    """List a job's checkpoints, oldest first; `dn train download --checkpoint` downloads one."""
    with common.client() as client:
        job = client.find_training_job(job)
        found = client.list_training_job_checkpoints(job).items
        if not found and not common.json:
            status = client.get_training_job(job).status
            ended = status in ("completed", "failed", "cancelled")
            say(f"job {job} {status} without a checkpoint" if ended else "no checkpoints yet")
            return
    common.out.rows(found, CHECKPOINTS, none="no checkpoints")
