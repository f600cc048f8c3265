"""The page of a job: its state, charts, log, data, settings, cost and checkpoints."""

import asyncio
from collections.abc import Mapping
from typing import Annotated, Any

from fastapi import APIRouter, Path, Query, Request
from sqlalchemy import select
from starlette.responses import Response

from dreadnode_api.auth.callers import Role, need
from dreadnode_api.auth.deps import WorkspaceSlug
from dreadnode_api.checkpoints.choice import checkpoint_name
from dreadnode_api.console.deps import Filter, ReaderPage, SignedIn
from dreadnode_api.console.job_actions import new_key
from dreadnode_api.console.job_feed import BATCH, JobFeed, JobFeeds, JobState, job_state
from dreadnode_api.console.layout import compressed, environment, json_response
from dreadnode_api.console.settings_table import setting_groups
from dreadnode_api.console.thinning import MetricHistory, joined_lists
from dreadnode_api.http.deps import InDatabase, InSettings, ReadSession
from dreadnode_api.jobs import service as jobs
from dreadnode_api.jobs.deps import JobId
from dreadnode_api.jobs.files import job_files
from dreadnode_api.models.base import now
from dreadnode_api.models.jobs import ENDED, Job, MetricPoints, Status
from dreadnode_api.pricing.budget import STOPPED_BY, estimated
from dreadnode_api.training.rehearsals import rehearsal_report
from dreadnode_api.training.schemas import Level, levels_from

router = APIRouter(prefix="/ws/{ws}/jobs/{job_id}")

LINES = 40
"""How many lines of the log are shown at first, and with each page of earlier ones.

About 18 fit their part of the page. Each costs time to read and to render.
"""
MAX_OVERLAID = 5
LEVELS = [
    ("debug", "Any level"),
    ("info", "Info and above"),
    ("warning", "Warnings and errors"),
    ("error", "Errors"),
]
_PARTS = {"state": "job_state.html", "cost": "job_cost.html", "checkpoints": "job_checkpoints.html"}


def render_parts(workspace: str, state: JobState) -> Mapping[str, str]:
    """Return the parts of the page that change, by the ids of their elements."""
    context = _context(workspace, state)
    return {
        part: environment().get_template(template).render(context)
        for part, template in _PARTS.items()
    }


def _context(workspace: str, state: JobState) -> dict[str, Any]:
    job = state.job
    return {
        "job": job,
        "waiting": state.waiting,
        "cost": state.cost,
        "checkpoints": [(row, checkpoint_name(row)) for row in reversed(state.checkpoints)],
        "job_url": f"/ws/{workspace}/jobs/{job.id}",
        "seconds": _seconds(job),
        "has_ended": job.status in ENDED,
    }


def _seconds(job: Job) -> float | None:
    """Return how long a job has run."""
    if job.started_at is None:
        return None
    return ((job.completed_at or now()) - job.started_at).total_seconds()


@router.get("")
async def job_page(
    page: ReaderPage,
    job_id: JobId,
    session: ReadSession,
    settings: InSettings,
    overlay: Annotated[str, Query(alias="with", max_length=300, pattern=r"^[0-9A-Za-z, -]*$")] = "",
) -> Response:
    """Show a job; its charts and what changes are loaded by a script."""
    job = await jobs.get_job(session, page.scope.workspace_id, job_id)
    state = await job_state(session, job, settings)
    creator = await jobs.get_creator(session, job)
    lines = await jobs.log_lines(session, job, tail=LINES + 1)
    return page.render(
        "job_page.html",
        **_context(page.workspace.slug, state),
        creator=creator,
        lines=lines[-LINES:],
        earlier=len(lines) > LINES,
        levels=LEVELS,
        query=None,
        level="debug",
        overlaid=[each for each in overlay.replace(" ", "").split(",") if each][:MAX_OVERLAID],
        settings=setting_groups(job),
        files=await job_files(session, job.id),
        can_retry=job.status in (Status.FAILED, Status.CANCELLED) or job.stopped_by == STOPPED_BY,
        most=_most(job),
        marks=sorted({row.step for row in state.checkpoints if row.step is not None}),
        key=new_key(),
    )


def _most(job: Job) -> Any:
    """Return the most that a copy of a paid job can cost; None if it is free or not known."""
    bounds = estimated(job) if job.paid else None
    return None if bounds is None else bounds[1].total


async def _feed(request: Request, caller: SignedIn, workspace: str, job_id: str) -> JobFeed:
    # The workspace is looked up by the feed, once for all followers.
    need(caller, Role.READER)
    feeds: JobFeeds = request.app.state.job_feeds
    return await feeds.get(
        caller.org_id, workspace, job_id, lambda state: render_parts(workspace, state)
    )


@router.get("/live")
async def live(
    ws: WorkspaceSlug,
    job_id: JobId,
    request: Request,
    caller: SignedIn,
    after: Annotated[int, Query(ge=0, le=2**31 - 1)] = 0,
    digest: Annotated[str, Query(max_length=16, pattern=r"^[0-9a-f]*$")] = "",
) -> Response:
    """Return what is new of a job after the event that its page has seen last."""
    feed = await _feed(request, caller, ws, job_id)
    return compressed(request, feed.since(after, digest), "application/json", 200)


@router.get("/series")
async def series(ws: WorkspaceSlug, job_id: JobId, request: Request, caller: SignedIn) -> Response:
    """Return every metric of a job, thinned so that minima and maxima stay visible."""
    feed = await _feed(request, caller, ws, job_id)
    return json_response(
        request, {"number": feed.number, "name": feed.name, "series": feed.history.to_json()}
    )


@router.get("/series/{start}-{end}")
async def part_of_series(
    page: ReaderPage,
    job_id: JobId,
    database: InDatabase,
    start: Annotated[int, Path(ge=0, le=2**53)],
    end: Annotated[int, Path(ge=0, le=2**53)],
) -> Response:
    """Return every metric between two steps, in more detail than the whole."""
    history = MetricHistory(first=start, last=end)
    async with database.reading() as session:
        job = await jobs.get_job(session, page.scope.workspace_id, job_id)
        found = await session.stream_scalars(
            select(MetricPoints.lists)
            .where(MetricPoints.job_id == job.id)
            .order_by(MetricPoints.number)
            .execution_options(yield_per=BATCH)
        )
        async for part in found.partitions():
            for lists in joined_lists(part):
                history.add(lists)
            await asyncio.sleep(0)  # A long history must not keep other requests waiting.
    return json_response(page.request, {"series": history.to_json()})


@router.get("/log")
async def log(
    page: ReaderPage,
    job_id: JobId,
    session: ReadSession,
    query: Filter = None,
    level: Level = "debug",
    before: Annotated[int | None, Query(ge=0, le=2**31 - 1)] = None,
) -> Response:
    """Return a page of the log: the last lines that match, or those before a line."""
    job = await jobs.get_job(session, page.scope.workspace_id, job_id)
    lines = await jobs.log_lines(
        session, job, before=before, levels=levels_from(level), query=query, tail=LINES + 1
    )
    return page.render(
        "job_log.html",
        job_url=page.url(f"jobs/{job.id}"),
        lines=lines[-LINES:],
        earlier=len(lines) > LINES,
        query=query,
        level=level,
    )


@router.get("/rehearsal")
async def rehearsal(page: ReaderPage, job_id: JobId, session: ReadSession) -> Response:
    """Return what a rehearsal has shown so far."""
    job = await jobs.get_job(session, page.scope.workspace_id, job_id)
    history = await jobs.metric_history(session, job.id)
    report = await rehearsal_report(session, job, history)
    return page.render("job_rehearsal.html", report=report)
