"""Routes of a job's checkpoints."""

from typing import Annotated, Any, Literal

from anyio import to_thread
from fastapi import APIRouter, Path, Request
from pydantic import Field

from dreadnode_api import audit
from dreadnode_api.auth.deps import Member
from dreadnode_api.checkpoints import adapters, records
from dreadnode_api.checkpoints.choice import WeightsInfo, choose_checkpoint, weights_info
from dreadnode_api.checkpoints.deletion import delete_checkpoint
from dreadnode_api.checkpoints.transfers import InTransfers
from dreadnode_api.engine_client import EngineClient
from dreadnode_api.errors import ERRORS, Conflict
from dreadnode_api.http.deps import InDatabase, InEngine, InStore, ReadSession
from dreadnode_api.http.disconnect import while_connected
from dreadnode_api.http.schemas import Request as RequestBody
from dreadnode_api.http.schemas import Response, Timestamp
from dreadnode_api.jobs import service
from dreadnode_api.jobs.deps import JobId, JobReader
from dreadnode_api.jobs.records import lock
from dreadnode_api.jobs.schemas import JobFileView
from dreadnode_api.models.checkpoints import Checkpoint, State
from dreadnode_api.models.jobs import Job

router = APIRouter(
    prefix="/org/{org}/ws/{ws}/training/jobs/{job_id}", responses=ERRORS, tags=["Training jobs"]
)


CheckpointName = Annotated[
    str,
    Path(
        min_length=1,
        max_length=500,
        pattern=r"^[^/\x00]+$",
        description="Name of the checkpoint",
    ),
]


class CheckpointView(Response):
    """A checkpoint of a job."""

    path: str = Field(description="Its path on the engine")
    kind: Literal["training", "sampler"] = Field(
        description="`training` has the optimizer and the position; `sampler` only has weights"
    )
    step: int | None = Field(description="Optimizer steps of the weights")
    attempt: int
    state: State
    best: bool = Field(description="Whether its evaluation is the best so far")
    final: bool = Field(description="Whether the job ended with it")
    metrics: dict[str, Any]
    bytes: int | None = Field(description="Its size, once it is known")
    created_at: Timestamp
    expired_at: Timestamp | None
    adapter: str | None = Field(
        description="The folder of its adapter among the job's files, once it is exported"
    )


class CheckpointList(Response):
    """The checkpoints of a job, oldest first."""

    items: list[CheckpointView]


class AdapterRequest(RequestBody):
    """The checkpoint to export as an adapter."""

    checkpoint: str = Field(min_length=1, max_length=500, description="Name, path, or `best`")


class CheckpointAdapter(WeightsInfo):
    """A checkpoint as a PEFT adapter, and the weights that it comes from."""

    folder: str = Field(description="The folder of the adapter among the job's files")
    files: list[JobFileView]


@router.get("/checkpoints")
async def list_checkpoints(scope: JobReader, session: ReadSession) -> CheckpointList:
    """List the checkpoints of a job, including the expired ones, oldest first."""
    job = await service.get_job(session, scope.workspace_id, scope.job_id)
    return CheckpointList(
        items=[_view(row) for row in await records.job_checkpoints(session, job.id)]
    )


@router.post("/checkpoints/adapter")
async def export_training_job_checkpoint(
    scope: Member,
    job_id: JobId,
    body: AdapterRequest,
    request: Request,
    database: InDatabase,
    engine: InEngine,
    transfers: InTransfers,
) -> CheckpointAdapter:
    """Export a checkpoint as an adapter into the job's files; a second call finds it there.

    The export stops when the client disconnects.
    """
    async with database.reading() as session:
        job = await service.get_job(session, scope.workspace_id, job_id)
        saved = await records.job_checkpoints(session, job.id)
        weights = choose_checkpoint(job, saved, body.checkpoint, trainable=True)
        files = await adapters.adapter_files(session, weights)
    if not files:
        await _check_engine(engine, job)
        files = await while_connected(request, transfers.export(job, weights))
    return CheckpointAdapter(
        **weights_info(job, weights),
        folder=files[0].path.rpartition("/")[0] + "/",
        files=[JobFileView.of(each) for each in files],
    )


@router.delete("/checkpoints/{name}")
async def delete_training_job_checkpoint(
    scope: Member, job_id: JobId, name: CheckpointName, database: InDatabase, store: InStore
) -> CheckpointList:
    """Delete a checkpoint with its adapter, and return all checkpoints of the job.

    The engine deletes the weights soon after. A checkpoint from which an unfinished job would
    resume is not deleted.
    """
    async with database.writing() as session:
        job = await lock(session, (await service.get_job(session, scope.workspace_id, job_id)).id)
        digests = await delete_checkpoint(session, job, name)
        rows = await records.job_checkpoints(session, job.id)
        left = CheckpointList(items=[_view(row) for row in rows])
    # After the commit, so that no row refers to a file that is gone.
    await to_thread.run_sync(store.delete_all_unused, digests)
    audit.record(
        scope.caller.user_id, scope.org_id, "deleted the checkpoint", f"{name} of job {job_id}"
    )
    return left


async def _check_engine(engine: EngineClient, job: Job) -> None:
    """Check that the engine can load the weights of JOB.

    Raises:
        Conflict: the engine does not serve that model any more.
        BadGateway: the engine cannot be reached.
        GatewayTimeout: the engine does not respond in time.
    """
    served = (await engine.capabilities()).models.get(job.trained_model)
    if served is None or not served.can_train:
        raise Conflict(
            f"This server's engine cannot load `{job.trained_model}` any more; start it with that "
            "model's weights"
        )


def _view(row: Checkpoint) -> CheckpointView:
    return CheckpointView.of(row, best=row.is_best, final=row.is_final)
