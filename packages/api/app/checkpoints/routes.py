"""The checkpoints of a job, as people look at them."""

from typing import Any, Literal

from fastapi import APIRouter
from pydantic import Field

from app.checkpoints import records
from app.checkpoints.tables import Checkpoint, State
from app.deps import ReadSession
from app.errors import ERRORS
from app.schemas import Moment, Response
from app.training import service
from app.training.deps import JobReader

router = APIRouter(
    prefix="/org/{org}/ws/{ws}/training/jobs/{job_id}", responses=ERRORS, tags=["Training jobs"]
)


class CheckpointView(Response):
    """A checkpoint of a job."""

    path: str = Field(description="Where the engine has it")
    kind: Literal["training", "sampler"] = Field(
        description="With optimizer and position, or weights to sample from"
    )
    step: int | None = Field(description="Optimizer steps that it holds")
    attempt: int
    state: State
    best: bool = Field(description="Whether its evaluation is the best so far")
    final: bool = Field(description="Whether the job ended with it")
    metrics: dict[str, Any]
    bytes: int | None = Field(description="Its size, as soon as it is known")
    created_at: Moment
    expired_at: Moment | None


class CheckpointList(Response):
    """The checkpoints of a job, oldest first."""

    items: list[CheckpointView]


@router.get("/checkpoints")
async def list_checkpoints(place: JobReader, session: ReadSession) -> CheckpointList:
    """List the checkpoints of a job, the expired ones too, oldest first."""
    job = await service.get_job(session, place.workspace_id, place.job_id)
    return CheckpointList(items=[_view(row) for row in await records.of_job(session, job.id)])


def _view(row: Checkpoint) -> CheckpointView:
    return CheckpointView(
        path=row.path,
        kind="sampler" if row.kind == "sampler" else "training",
        step=row.step,
        attempt=row.attempt,
        state=State(row.state),
        best=row.is_best,
        final=row.is_final,
        metrics=row.metrics,
        bytes=row.bytes,
        created_at=row.created_at,
        expired_at=row.expired_at,
    )
