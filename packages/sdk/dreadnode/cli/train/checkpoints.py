"""`dn train checkpoints`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dreadnode.cli.context import DEFAULT, Common
from dreadnode.cli.output import Column, say
from dreadnode.cli.train.jobs import Job
from dreadnode.cli.units import byte_size

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


def _name(checkpoint: Checkpoint) -> str:
    return checkpoint.path.rstrip("/").rpartition("/")[2]


def _size(checkpoint: Checkpoint) -> str | None:
    return None if checkpoint.bytes is None else byte_size(checkpoint.bytes)


CHECKPOINTS: tuple[Column, ...] = (
    ("name", _name),
    ("step", lambda checkpoint: checkpoint.step),
    ("state", _state),
    ("kind", lambda checkpoint: checkpoint.kind),
    ("metrics", _metrics),
    ("size", _size),
)


def checkpoints(job: Job, /, *, common: Common = DEFAULT) -> None:
    """List a job's checkpoints, oldest first; `dn train download --checkpoint NAME` downloads one.

    With `--json` each has its path on the engine, too.
    """
    with common.client() as client:
        job = client.find_training_job(job)
        found = client.list_training_job_checkpoints(job).items
        if not found and not common.json:
            status = client.get_training_job(job).status
            ended = status in ("completed", "failed", "cancelled")
            say(f"job {job} {status} without a checkpoint" if ended else "no checkpoints yet")
            return
    common.out.rows(found, CHECKPOINTS, none="no checkpoints")
