"""Routes of budgets and costs."""

from datetime import UTC, datetime
from decimal import Decimal
from typing import Annotated

from fastapi import APIRouter, Query

from dreadnode_api.auth.deps import Admin, OrgReader, Reader, find_workspace
from dreadnode_api.errors import ERRORS, Invalid
from dreadnode_api.http.deps import InDatabase, ReadSession, WriteSession
from dreadnode_api.http.patterns import SLUG
from dreadnode_api.models.auth import Workspace
from dreadnode_api.models.base import now
from dreadnode_api.pricing.budget import spent_in_month
from dreadnode_api.pricing.ledger import money
from dreadnode_api.pricing.report import CostRow, GroupBy, cost_rows
from dreadnode_api.pricing.schemas import BudgetRequest, BudgetView, CostReport, CostRowView

router = APIRouter(prefix="/org/{org}", responses=ERRORS, tags=["Costs"])

Month = Annotated[
    str | None,
    Query(
        pattern=r"^2[0-9]{3}-(0[1-9]|1[0-2])$",
        description="Only jobs that were submitted in this month, in UTC",
        examples=["2026-11"],
    ),
]


@router.get("/ws/{ws}/budget")
async def get_budget(scope: Reader, session: ReadSession) -> BudgetView:
    """Return the monthly limit of a workspace, and how much of it is left."""
    return _budget(*await _state(session, scope.workspace_id))


@router.put("/ws/{ws}/budget")
async def set_budget(scope: Admin, request: BudgetRequest, session: WriteSession) -> BudgetView:
    """Set or remove the monthly limit of a workspace.

    A job that can cost more than is left is refused, and running jobs stop after the step that
    reaches the limit.
    """
    workspace = await session.get_one(Workspace, scope.workspace_id, with_for_update=True)
    limit = request.monthly_limit_usd
    workspace.monthly_limit_usd = None if limit is None else money(Decimal(str(limit)))
    await session.flush()
    return _budget(*await _state(session, scope.workspace_id))


@router.get("/training/costs")
async def get_costs(
    caller: OrgReader,
    session: ReadSession,
    database: InDatabase,
    group_by: Annotated[GroupBy, Query(description="What the groups are")] = "job",
    month: Month = None,
    workspace: Annotated[
        str | None,
        Query(max_length=64, pattern=SLUG, description="Slug or id of one workspace"),
    ] = None,
) -> CostReport:
    """Return what jobs cost, by job, model, workspace or month; deleted jobs are included.

    A job belongs to the month in which it was submitted.
    """
    found = None if workspace is None else await find_workspace(database, caller.org_id, workspace)
    rows, total = await cost_rows(
        session,
        caller.org_id,
        group_by,
        month=None if month is None else _start_of(month),
        workspace_id=None if found is None else found.id,
    )
    return CostReport(
        group_by=group_by,
        month=month,
        workspace=None if found is None else found.slug,
        items=[_row(row) for row in rows],
        total=_row(total),
    )


def _start_of(month: str) -> datetime:
    try:
        return datetime.strptime(month, "%Y-%m").replace(tzinfo=UTC)
    except ValueError:
        raise Invalid(f"`{month}` is not a month such as 2026-11", "month") from None


async def _state(session: ReadSession, workspace_id: str) -> tuple[Workspace, Decimal]:
    workspace = await session.get_one(Workspace, workspace_id)
    return workspace, await spent_in_month(session, workspace_id, now())


def _budget(workspace: Workspace, used: Decimal) -> BudgetView:
    limit = workspace.monthly_limit_usd
    left = None if limit is None else money(max(Decimal(limit) - used, Decimal(0)))
    return BudgetView(
        workspace=workspace.slug,
        month=f"{now():%Y-%m}",
        monthly_limit_usd=limit,
        used_usd=money(used) or "0",
        left_usd=left,
    )


def _row(row: CostRow) -> CostRowView:
    return CostRowView.of(row, usd=money(row.usd), list_usd=money(row.list_usd))
