"""What the sandbox of a job tells and hands in."""

from typing import Annotated

from fastapi import APIRouter, Path, Request
from sqlalchemy import select
from starlette.responses import FileResponse

from dreadnode_api.errors import ERRORS, Conflict, NotFound
from dreadnode_api.http.deps import InDatabase, InSettings, InStore, ReadSession, WriteSession
from dreadnode_api.jobs import files
from dreadnode_api.jobs.records import lock
from dreadnode_api.models.jobs import ENDED, JobFile
from dreadnode_api.training import progress, service
from dreadnode_api.training.deps import JobReader, JobSandbox, LastWords
from dreadnode_api.training.schemas import (
    JobFileList,
    JobFileView,
    ProgressRequest,
    RLContext,
    TrainingJob,
)
from dreadnode_api.training.views import job_view

router = APIRouter(
    prefix="/org/{org}/ws/{ws}/training/jobs/{job_id}", responses=ERRORS, tags=["Sandbox"]
)

PART = "[A-Za-z0-9][A-Za-z0-9._-]*"
# OpenAPI knows no slashes in a parameter of the path, so it is told of one part only.
FilePath = Annotated[
    str,
    Path(
        max_length=300,
        pattern=f"^{PART}(/{PART})*$",
        json_schema_extra={"pattern": f"^{PART}$"},
        description="Parts with slashes between them",
    ),
]

FILE_BODY = {
    "requestBody": {
        "required": True,
        "content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}},
    }
}


@router.post("/progress", openapi_extra={"security": [{"HTTPBearer": []}, {"APIKeyHeader": []}]})
async def post_progress(
    place: LastWords, event: ProgressRequest, session: WriteSession
) -> TrainingJob:
    """Take in an event; the answer tells the sandbox whether to stop."""
    attempt = place.caller.attempt or 1
    job = await progress.apply(session, place.job_id, attempt, event)
    await session.flush()
    return job_view(job, None)


@router.get("/rl-context")
async def get_rl_context(place: JobReader, session: ReadSession) -> RLContext:
    """Return what a reinforcement-learning sandbox needs beside its config."""
    job = await service.get_job(session, place.workspace_id, place.job_id)
    return RLContext(
        capability_entry_prompt=job.config.get("system_prompt"),
        reward_recipe=job.config.get("reward_recipe"),
    )


@router.put("/files/{path:path}", status_code=201, openapi_extra=FILE_BODY)
async def put_file(
    place: JobSandbox,
    path: FilePath,
    request: Request,
    database: InDatabase,
    store: InStore,
    settings: InSettings,
) -> JobFileView:
    """Hand in a file; the same path again replaces it."""
    async with (
        store.receiving(request.stream(), settings.max_file_bytes) as incoming,
        database.writing() as session,
    ):
        job = await lock(session, place.job_id)
        if job.status in ENDED or job.attempt != place.caller.attempt:
            raise Conflict("This attempt has ended and takes no more files")
        await files.add(session, job, path, incoming, settings)
        incoming.keep()
    return JobFileView(path=path, bytes=incoming.bytes, sha256=incoming.sha256)


@router.get("/files")
async def list_files(place: JobReader, session: ReadSession) -> JobFileList:
    """List the files that the job has handed in."""
    job = await service.get_job(session, place.workspace_id, place.job_id)
    found = await session.scalars(
        select(JobFile).where(JobFile.job_id == job.id).order_by(JobFile.path)
    )
    return JobFileList(
        items=[JobFileView(path=f.path, bytes=f.bytes, sha256=f.sha256) for f in found]
    )


@router.get(
    "/files/{path:path}",
    response_class=FileResponse,
    responses={200: {"content": {"application/octet-stream": {}}, "description": "The bytes"}},
)
async def get_file(
    place: JobReader, path: FilePath, database: InDatabase, store: InStore
) -> FileResponse:
    """Return the bytes of a file."""
    async with database.reading() as session:
        job = await service.get_job(session, place.workspace_id, place.job_id)
        found = await session.get(JobFile, (job.id, path))
    if found is None:
        raise NotFound(f"The job `{job.id}` has no file `{path}`")
    return FileResponse(
        store.path(found.sha256),
        media_type="application/octet-stream",
        filename=path.rsplit("/", 1)[-1],
        headers={"ETag": f'"{found.sha256}"'},
    )
