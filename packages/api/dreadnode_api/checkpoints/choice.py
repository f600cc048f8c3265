"""Finds the checkpoint that a request names, and describes its weights."""

from collections.abc import Sequence
from typing import Any

from pydantic import Field

from dreadnode_api.errors import Conflict, Invalid
from dreadnode_api.http.schemas import Response
from dreadnode_api.models.checkpoints import Checkpoint, State
from dreadnode_api.models.jobs import ENDED, Job

NAMES_LISTED = 5
"""How many names an error lists."""


class WeightsInfo(Response):
    """The job and the checkpoint that weights come from."""

    job_id: str
    model: str
    trained_model: str = Field(
        description="The model that was trained; the stand-in in a rehearsal"
    )
    rehearsal: bool
    checkpoint: str
    step: int | None = Field(description="Optimizer steps of the weights")


def weights_info(job: Job, weights: Checkpoint) -> dict[str, Any]:
    """Return the fields of `WeightsInfo`."""
    return {
        "job_id": job.id,
        "model": job.model,
        "trained_model": job.trained_model,
        "rehearsal": job.rehearsal,
        "checkpoint": weights.path,
        "step": weights.step,
    }


def choose_checkpoint(
    job: Job, saved: Sequence[Checkpoint], wanted: str | None, *, trainable: bool = False
) -> Checkpoint:
    """Return the checkpoint that WANTED names, or else the newest, sampler weights preferred.

    Args:
        job: the job.
        saved: all of its checkpoints.
        wanted: a name, a path, or `best`.
        trainable: ignore weights that can only be sampled from.

    Raises:
        Conflict: there is no checkpoint yet, or it has expired, or it is still being written.
        Invalid: no checkpoint has that name.
    """
    fitting = [c for c in saved if c.kind == "training" or not trainable]
    if not fitting:
        raise Conflict(_no_checkpoint(job))
    newest_first = sorted(fitting, key=lambda c: (c.number, c.kind == "sampler"), reverse=True)
    if wanted is None:
        named = newest_first
    else:
        named = [c for c in newest_first if _is_called(c, wanted)]
        if not named:
            raise Invalid(_unknown(wanted, newest_first), "checkpoint")
    ready = next((c for c in named if c.state == State.READY), None)
    if ready is not None:
        return ready
    name = checkpoint_name(named[0])
    if named[0].state == State.WRITING:
        raise Conflict(f"The checkpoint `{name}` is still being written; try again in a moment")
    raise Conflict(
        f"The checkpoint `{name}` has expired; choose one that is ready of "
        f"`dn train checkpoints {job.id}`"
    )


def checkpoint_name(checkpoint: Checkpoint) -> str:
    """Return the name of a checkpoint: the last part of its path."""
    return checkpoint.path.rpartition("/")[2]


def _no_checkpoint(job: Job) -> str:
    if job.status in ENDED:
        return "The job ended before it saved a checkpoint"
    return (
        "The job has no checkpoint yet; it saves the first one after `checkpoint_interval` steps, "
        "or when it ends"
    )


def _is_called(checkpoint: Checkpoint, name: str) -> bool:
    if name == "best":
        return checkpoint.is_best or checkpoint_name(checkpoint) == "best"
    return name in (checkpoint.path, checkpoint_name(checkpoint))


def _unknown(wanted: str, newest_first: Sequence[Checkpoint]) -> str:
    if wanted == "best":
        return "The job has no best checkpoint, because it has no evaluation yet"
    names = list(dict.fromkeys(checkpoint_name(c) for c in newest_first if c.state == State.READY))
    listed = ", ".join(f"`{name}`" for name in names[:NAMES_LISTED]) or "none that is ready"
    rest = f" and {len(names) - NAMES_LISTED} more" if len(names) > NAMES_LISTED else ""
    return f"The job has no checkpoint `{wanted}`; it has {listed}{rest}"
