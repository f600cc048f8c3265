"""A row of a job's data as it is rendered, with the tokens that carry loss marked."""

from typing import Annotated

from fastapi import APIRouter, Query
from starlette.responses import Response

from dreadnode_api.console.deps import MemberPage
from dreadnode_api.console.job_actions import copied
from dreadnode_api.http.deps import InDatabase
from dreadnode_api.http.disconnect import while_connected
from dreadnode_api.jobs import service as jobs
from dreadnode_api.jobs.deps import JobId
from dreadnode_api.training.deps import InServices
from dreadnode_api.training.preflight_report import report

router = APIRouter(prefix="/ws/{ws}/jobs/{job_id}")


@router.get("/row")
async def row(
    page: MemberPage,
    job_id: JobId,
    database: InDatabase,
    services: InServices,
    row: Annotated[int | None, Query(ge=1, le=2**53)] = None,
) -> Response:
    """Render a row, the first one that is usable by default; that takes seconds the first time."""
    async with database.reading() as session:
        job = await jobs.get_job(session, page.scope.workspace_id, job_id)
    found = await while_connected(
        page.request, report(page.scope, copied(job), services=services, show=row)
    )
    return page.render(
        "job_row.html",
        job_url=page.url(f"jobs/{job.id}"),
        shown=found.report["shown"],
    )
