"""What a person does with a job: cancel, retry and copy it, and export and download its files."""

import secrets
from functools import partial
from typing import Annotated

from fastapi import APIRouter, Form
from pydantic import ValidationError
from starlette.responses import Response

from dreadnode_api.checkpoints import routes as checkpoints
from dreadnode_api.checkpoints.routes import AdapterRequest
from dreadnode_api.checkpoints.transfers import InTransfers
from dreadnode_api.console.deps import MemberPage, ReaderPage
from dreadnode_api.console.layout import redirect
from dreadnode_api.errors import Conflict
from dreadnode_api.http.deps import InDatabase, InEngine, InStore
from dreadnode_api.http.disconnect import while_connected
from dreadnode_api.jobs import service as jobs
from dreadnode_api.jobs.deps import JobId
from dreadnode_api.jobs.files import get_file
from dreadnode_api.models.jobs import Job
from dreadnode_api.training import retry, service
from dreadnode_api.training.copies import copy_request
from dreadnode_api.training.deps import InServices
from dreadnode_api.training.sandbox_routes import FilePath, file_response
from dreadnode_api.training.schemas import JobRequest

router = APIRouter(prefix="/ws/{ws}/jobs/{job_id}")

Key = Annotated[str, Form(min_length=1, max_length=255, pattern=r"^[\x21-\x7e]+$")]
"""The form's own idempotency key, so that a form that is sent twice creates one job."""


def new_key() -> str:
    """Return the idempotency key of a form."""
    return f"console-{secrets.token_hex(16)}"


def copied(job: Job) -> JobRequest:
    """Return the request of a job with the same settings.

    Raises:
        Conflict: this server does not accept a setting of the job any more.
    """
    try:
        return copy_request(job)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(str(part) for part in first["loc"][1:])
        raise Conflict(
            f"This server does not accept the setting `{place}` of the job any more; run "
            f"`dn train clone {job.id} --unset {place}`"
        ) from None


@router.post("/cancel")
async def cancel(page: MemberPage, job_id: JobId, database: InDatabase) -> Response:
    """Cancel a job."""
    async with database.writing() as session:
        await jobs.cancel_job(session, page.scope.workspace_id, job_id)
    return redirect(page.url(f"jobs/{job_id}"))


@router.post("/retry")
async def retry_job(
    page: MemberPage,
    job_id: JobId,
    services: InServices,
    key: Key,
    from_start: Annotated[bool, Form()] = False,
) -> Response:
    """Retry a job, from its newest checkpoint or from the start."""
    job, _ = await retry.retry_job(
        page.scope, job_id, key, from_start=from_start, max_cost_usd=None, services=services
    )
    return redirect(page.url(f"jobs/{job.id}"))


@router.post("/clone")
async def clone(page: MemberPage, job_id: JobId, services: InServices, key: Key) -> Response:
    """Submit a job with the same settings."""
    async with services.database.reading() as session:
        old = await jobs.get_job(session, page.scope.workspace_id, job_id)
    job, _ = await service.create_job(
        page.scope,
        copied(old),
        key,
        services=services,
        while_connected=partial(while_connected, page.request),
    )
    return redirect(page.url(f"jobs/{job.id}"))


@router.post("/export")
async def export(
    page: MemberPage,
    job_id: JobId,
    checkpoint: Annotated[str, Form(min_length=1, max_length=500)],
    database: InDatabase,
    engine: InEngine,
    transfers: InTransfers,
) -> Response:
    """Export a checkpoint as an adapter; the page then links its files."""
    await checkpoints.export_training_job_checkpoint(
        page.scope,
        job_id,
        AdapterRequest(checkpoint=checkpoint),
        page.request,
        database,
        engine,
        transfers,
    )
    return redirect(page.url(f"jobs/{job_id}") + "#checkpoints-title")


@router.get("/files/{path:path}")
async def download(
    page: ReaderPage, job_id: JobId, path: FilePath, database: InDatabase, store: InStore
) -> Response:
    """Return the content of a file."""
    async with database.reading() as session:
        job = await jobs.get_job(session, page.scope.workspace_id, job_id)
        return file_response(store, await get_file(session, job, path))
