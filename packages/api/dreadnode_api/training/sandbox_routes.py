"""Routes for the sandbox of a job: progress events and files."""

from typing import Annotated

from fastapi import APIRouter, Path, Request
from starlette.responses import FileResponse

from dreadnode_api.blob_store import BlobStore
from dreadnode_api.errors import ERRORS, Conflict
from dreadnode_api.http.deps import InDatabase, InSettings, InStore, ReadSession, WriteSession
from dreadnode_api.jobs import files, service
from dreadnode_api.jobs.deps import JobReader, JobSandbox, ReportingSandbox
from dreadnode_api.jobs.records import lock
from dreadnode_api.jobs.schemas import JobFileList, JobFileView
from dreadnode_api.models.jobs import ENDED, JobFile
from dreadnode_api.pricing.budget import limit_of
from dreadnode_api.training import progress
from dreadnode_api.training.schemas import ProgressRequest, RLContext, TrainingJob
from dreadnode_api.training.views import job_view

router = APIRouter(
    prefix="/org/{org}/ws/{ws}/training/jobs/{job_id}", responses=ERRORS, tags=["Sandbox"]
)

PART = "[A-Za-z0-9][A-Za-z0-9._-]*"
# OpenAPI allows no slash in a path parameter, so it describes one part only.
FilePath = Annotated[
    str,
    Path(
        max_length=300,
        pattern=f"^{PART}(/{PART})*$",
        json_schema_extra={"pattern": f"^{PART}$"},
        description="Path of the file, with slashes between its parts",
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
    scope: ReportingSandbox, event: ProgressRequest, session: WriteSession
) -> TrainingJob:
    """Apply a progress event; the response says whether the sandbox must stop."""
    attempt = scope.caller.attempt or 1
    job = await progress.apply(session, scope.job_id, attempt, event)
    await session.flush()
    return job_view(job, None, limit=await limit_of(session, job))


@router.get("/rl-context")
async def get_rl_context(scope: JobReader, session: ReadSession) -> RLContext:
    """Return what a reinforcement-learning sandbox needs besides its config."""
    job = await service.get_job(session, scope.workspace_id, scope.job_id)
    return RLContext(
        capability_entry_prompt=job.config.get("system_prompt"),
        reward_recipe=job.config.get("reward_recipe"),
    )


@router.put("/files/{path:path}", status_code=201, openapi_extra=FILE_BODY)
async def put_file(
    scope: JobSandbox,
    path: FilePath,
    request: Request,
    database: InDatabase,
    store: InStore,
    settings: InSettings,
) -> JobFileView:
    """Upload a file; a second upload to the same path replaces it."""
    async with (
        store.receiving(request.stream(), settings.max_file_bytes) as incoming,
        database.writing() as session,
    ):
        job = await lock(session, scope.job_id)
        if job.status in ENDED or job.attempt != scope.caller.attempt:
            raise Conflict("This attempt has ended and accepts no more files")
        stored = await files.add_file(session, job, path, incoming, settings)
        incoming.keep()
    return JobFileView.of(stored)


@router.get("/files")
async def list_files(scope: JobReader, session: ReadSession) -> JobFileList:
    """List the files of a job."""
    job = await service.get_job(session, scope.workspace_id, scope.job_id)
    found = await files.job_files(session, job.id)
    return JobFileList(items=[JobFileView.of(each) for each in found])


@router.get(
    "/files/{path:path}",
    response_class=FileResponse,
    responses={200: {"content": {"application/octet-stream": {}}, "description": "The bytes"}},
)
async def get_file(
    scope: JobReader, path: FilePath, database: InDatabase, store: InStore
) -> FileResponse:
    """Return the content of a file."""
    async with database.reading() as session:
        job = await service.get_job(session, scope.workspace_id, scope.job_id)
        return file_response(store, await files.get_file(session, job, path))


def file_response(store: BlobStore, file: JobFile) -> FileResponse:
    """Return the content of a file of a job, as a download."""
    return FileResponse(
        store.path(file.sha256),
        media_type="application/octet-stream",
        filename=file.path.rsplit("/", 1)[-1],
        headers={"ETag": f'"{file.sha256}"'},
    )
