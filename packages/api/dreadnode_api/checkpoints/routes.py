"""The checkpoints of a job, as people look at them."""

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Request
from pydantic import Field

from dreadnode_api.auth.deps import Member
from dreadnode_api.checkpoints import adapters, records
from dreadnode_api.checkpoints.choice import OfWeights, chosen, whose
from dreadnode_api.checkpoints.exports import Exports
from dreadnode_api.engine_client import EngineClient
from dreadnode_api.errors import ERRORS, Conflict
from dreadnode_api.http.deps import InDatabase, InEngine, ReadSession
from dreadnode_api.http.disconnect import while_connected
from dreadnode_api.http.schemas import Request as RequestBody
from dreadnode_api.http.schemas import Response, Timestamp
from dreadnode_api.models.checkpoints import Checkpoint, State
from dreadnode_api.models.jobs import Job
from dreadnode_api.training import service
from dreadnode_api.training.deps import JobId, JobReader
from dreadnode_api.training.schemas import JobFileView

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
    created_at: Timestamp
    expired_at: Timestamp | None
    adapter: str | None = Field(
        description="The folder of the job's files where it lies as an adapter, once exported"
    )


class CheckpointList(Response):
    """The checkpoints of a job, oldest first."""

    items: list[CheckpointView]


class AdapterRequest(RequestBody):
    """Which checkpoint is wanted as an adapter."""

    checkpoint: str = Field(min_length=1, max_length=500, description="Name, path, or `best`")


class CheckpointAdapter(OfWeights):
    """A checkpoint as PEFT loads it, and whose it is."""

    folder: str = Field(description="Where the files lie among those of the job")
    files: list[JobFileView]


def exports(request: Request) -> Exports:
    """Return what has checkpoints exported."""
    found: Exports = request.app.state.exports
    return found


@router.get("/checkpoints")
async def list_checkpoints(place: JobReader, session: ReadSession) -> CheckpointList:
    """List the checkpoints of a job, the expired ones too, oldest first."""
    job = await service.get_job(session, place.workspace_id, place.job_id)
    return CheckpointList(items=[_view(row) for row in await records.of_job(session, job.id)])


@router.post("/checkpoints/adapter")
async def export_training_job_checkpoint(
    place: Member,
    job_id: JobId,
    wish: AdapterRequest,
    request: Request,
    database: InDatabase,
    engine: InEngine,
    exporter: Annotated[Exports, Depends(exports)],
) -> CheckpointAdapter:
    """Have a checkpoint exported as an adapter into the job's files; asked again, find it there.

    The engine works on it until the answer is there, or for as long as somebody waits for it.
    """
    async with database.reading() as session:
        job = await service.get_job(session, place.workspace_id, job_id)
        saved = await records.of_job(session, job.id)
        weights = chosen(job, saved, wish.checkpoint, trainable=True)
        files = await adapters.files_of(session, weights)
    if not files:
        await _check_engine(engine, job)
        files = await while_connected(request, exporter.make(job, weights))
    return CheckpointAdapter(
        **whose(job, weights),
        folder=files[0].path.rpartition("/")[0] + "/",
        files=[JobFileView(path=f.path, bytes=f.bytes, sha256=f.sha256) for f in files],
    )


async def _check_engine(engine: EngineClient, job: Job) -> None:
    """Return if the engine can load what JOB has trained.

    Raises:
        Conflict: it does not serve that model any more.
        BadGateway: it cannot be asked.
        GatewayTimeout: it does not answer.
    """
    served = (await engine.capabilities()).models.get(job.trained_model)
    if served is None or not served.can_train:
        raise Conflict(
            f"This server's engine cannot load `{job.trained_model}` any more; start it with that "
            "model's weights"
        )


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
        adapter=row.adapter,
    )
