"""The result of an evaluation: models side by side, and the rows that changed most."""

from fastapi import APIRouter
from starlette.responses import Response

from dreadnode_api.console.deps import ReaderPage
from dreadnode_api.http.deps import InDatabase, InStore
from dreadnode_api.jobs.deps import JobId
from dreadnode_api.training.evaluation_results import evaluation_result

router = APIRouter(prefix="/ws/{ws}/jobs/{job_id}")


@router.get("/evaluation")
async def evaluation(
    page: ReaderPage, job_id: JobId, database: InDatabase, store: InStore
) -> Response:
    """Show the result of an evaluation that has ended, as a part of its page."""
    found = await evaluation_result(database, store, page.scope.workspace_id, job_id)
    return page.render("job_evaluation.html", found=found)
