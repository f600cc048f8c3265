"""The list of jobs: filters, pages, and rows that stay current."""

from typing import Annotated

from fastapi import APIRouter, Query
from pydantic import BeforeValidator
from starlette.responses import Response

from dreadnode_api.console import job_form
from dreadnode_api.console.curves import Curves
from dreadnode_api.console.deps import Filter, ReaderPage, empty_is_none
from dreadnode_api.http.deps import ReadSession
from dreadnode_api.http.patterns import SLUG
from dreadnode_api.jobs import service as jobs
from dreadnode_api.models.jobs import Status
from dreadnode_api.pricing.ledger import cost_view
from dreadnode_api.training.schemas import TrainerType

router = APIRouter()

PAGE_SIZE = 25
STATUSES = [("", "Any status"), *((each.value, each.value.capitalize()) for each in Status)]
KINDS = [("", "Any kind"), *job_form.KINDS.items()]


@router.get("/ws/{ws}/jobs")
async def job_list(
    page: ReaderPage,
    session: ReadSession,
    status: Annotated[Status | None, BeforeValidator(empty_is_none)] = None,
    trainer_type: Annotated[TrainerType | None, BeforeValidator(empty_is_none)] = None,
    text: Filter = None,
    model: Filter = None,
    tag: Filter = None,
    username: Filter = None,
    before: Annotated[str | None, Query(max_length=36, pattern=SLUG)] = None,
) -> Response:
    """Show a page of jobs, newest first; htmx asks for its rows again."""
    filters = {
        "status": status,
        "trainer_type": trainer_type,
        "text": text,
        "model": model,
        "tag": tag,
        "username": username,
    }
    found, total = await jobs.list_jobs(
        session, page.scope.workspace_id, filters, 1, PAGE_SIZE + 1, before=before
    )
    shown = found[:PAGE_SIZE]
    curves: Curves = page.request.app.state.curves
    # The page comes at once; its script asks for the rows again, and these have all curves.
    listed = [job for job, _ in shown]
    drawn = await curves.read(session, listed) if page.is_fragment else curves.known(listed)
    return page.render(
        "job_rows.html" if page.is_fragment else "job_list.html",
        curves=drawn,
        rows=[(job, user, cost_view(job)) for job, user in shown],
        total=total,
        filters=filters,
        has_filters=any(filters.values()),
        current=page.url("jobs", **filters, before=before),
        first=page.url("jobs", **filters) if before else None,
        older=page.url("jobs", **filters, before=shown[-1][0].id)
        if len(found) > PAGE_SIZE
        else None,
        statuses=STATUSES,
        kinds=KINDS,
    )
