"""The rollouts of an RL job by step: prompts, and completions with reward and advantage."""

from collections.abc import Sequence
from typing import Annotated, Literal

from fastapi import APIRouter, Query
from pydantic import BeforeValidator
from starlette.responses import Response

from dreadnode_api.console.deps import ReaderPage, empty_is_none
from dreadnode_api.http.deps import ReadSession
from dreadnode_api.jobs import service as jobs
from dreadnode_api.jobs.deps import JobId
from dreadnode_api.training.rollout_schemas import MAX_STEP, RolloutCompletion, RolloutGroup
from dreadnode_api.training.rollouts import read_rollouts

router = APIRouter(prefix="/ws/{ws}/jobs/{job_id}")

Order = Literal["reward", "advantage"]
ORDERS = [("", "As sampled"), ("reward", "Highest reward"), ("advantage", "Highest advantage")]


@router.get("/rollouts")
async def rollouts(
    page: ReaderPage,
    job_id: JobId,
    session: ReadSession,
    step: Annotated[int | None, BeforeValidator(empty_is_none), Query(ge=1, le=MAX_STEP)] = None,
    sort: Annotated[Order | None, BeforeValidator(empty_is_none)] = None,
) -> Response:
    """Show the rollouts of a step, the newest one by default."""
    job = await jobs.get_job(session, page.scope.workspace_id, job_id)
    found = await read_rollouts(session, job, step)
    at = None if found.step is None else found.steps.index(found.step)
    return page.render(
        "job_rollouts.html" if page.is_fragment else "job_rollouts_page.html",
        job=job,
        job_url=page.url(f"jobs/{job.id}"),
        found=found,
        groups=found.groups if sort is None else ordered(found.groups, sort),
        sort=sort,
        orders=ORDERS,
        earlier=found.steps[at - 1] if at else None,
        later=found.steps[at + 1] if at is not None and at + 1 < len(found.steps) else None,
    )


def ordered(groups: Sequence[RolloutGroup], by: Order) -> list[RolloutGroup]:
    """Return GROUPS and their completions with the highest values BY reward or advantage first."""

    def value(completion: RolloutCompletion) -> float:
        return completion.reward if by == "reward" else completion.advantage

    found = [
        group.model_copy(update={"completions": sorted(group.completions, key=value, reverse=True)})
        for group in groups
    ]
    return sorted(found, key=lambda group: max(map(value, group.completions), default=0.0))[::-1]
