"""Which checkpoint of a job somebody means, and whose weights it holds."""

from collections.abc import Sequence
from typing import Any

from pydantic import Field

from dreadnode_api.errors import Conflict, Invalid
from dreadnode_api.http.schemas import Response
from dreadnode_api.models.checkpoints import Checkpoint, State
from dreadnode_api.models.jobs import Job

NAMED = 5
"""Names that a refusal tells."""


class OfWeights(Response):
    """What a job's weights have given, and whose they are."""

    job_id: str
    model: str
    trained_model: str = Field(description="The stand-in, in a rehearsal")
    rehearsal: bool
    checkpoint: str
    step: int | None = Field(description="Optimizer steps that the weights have behind them")


def whose(job: Job, weights: Checkpoint) -> dict[str, Any]:
    """Return the fields of `OfWeights`."""
    return {
        "job_id": job.id,
        "model": job.model,
        "trained_model": job.trained_model,
        "rehearsal": job.rehearsal,
        "checkpoint": weights.path,
        "step": weights.step,
    }


def chosen(
    job: Job, saved: Sequence[Checkpoint], wanted: str | None, *, trainable: bool = False
) -> Checkpoint:
    """Return the checkpoint that WANTED names, or the newest; weights to sample from come first.

    Args:
        job: whose checkpoints they are.
        saved: all of them.
        wanted: a name, a path, or `best`.
        trainable: leave out weights that can be sampled from and nothing else.

    Raises:
        Conflict: there is none yet, or it cannot be had any more, or not yet.
        Invalid: none is called that.
    """
    fitting = [c for c in saved if c.kind == "training" or not trainable]
    if not fitting:
        raise Conflict(
            "The job has no checkpoint yet; the first one comes after `checkpoint_interval` "
            "steps, or when the job ends"
        )
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
    name = name_of(named[0])
    if named[0].state == State.WRITING:
        raise Conflict(f"The checkpoint `{name}` is still being written; try again in a moment")
    raise Conflict(
        f"The checkpoint `{name}` has expired; choose one that is ready of "
        f"`dn train checkpoints {job.id}`"
    )


def name_of(checkpoint: Checkpoint) -> str:
    """Return what its job calls a checkpoint: the last part of its path."""
    return checkpoint.path.rpartition("/")[2]


def _is_called(checkpoint: Checkpoint, name: str) -> bool:
    if name == "best":
        return checkpoint.is_best or name_of(checkpoint) == "best"
    return name in (checkpoint.path, name_of(checkpoint))


def _unknown(wanted: str, newest_first: Sequence[Checkpoint]) -> str:
    if wanted == "best":
        return "The job has no best checkpoint: it is not evaluated, or was not yet"
    names = list(dict.fromkeys(name_of(c) for c in newest_first if c.state == State.READY))
    told = ", ".join(f"`{name}`" for name in names[:NAMED]) or "none that is ready"
    rest = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return f"The job has no checkpoint `{wanted}`; it has {told}{rest}"
