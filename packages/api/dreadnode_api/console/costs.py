"""The budget of the workspace, and what its jobs cost."""

from typing import Annotated

from fastapi import APIRouter
from pydantic import BeforeValidator, TypeAdapter
from starlette.responses import Response

from dreadnode_api.console.deps import AdminPage, ReaderPage, empty_is_none
from dreadnode_api.console.forms import number, texts, validated
from dreadnode_api.console.layout import redirect
from dreadnode_api.http.deps import InDatabase, ReadSession
from dreadnode_api.pricing import routes as api
from dreadnode_api.pricing.report import GroupBy
from dreadnode_api.pricing.routes import Month
from dreadnode_api.pricing.schemas import BudgetRequest

router = APIRouter(prefix="/ws/{ws}/settings/costs")

SHOWN = 100
GROUPS = [("model", "By model"), ("job", "By job"), ("month", "By month")]
_BUDGET = TypeAdapter(BudgetRequest)


@router.get("")
async def costs(
    page: ReaderPage,
    session: ReadSession,
    database: InDatabase,
    group_by: GroupBy = "model",
    month: Annotated[Month, BeforeValidator(empty_is_none)] = None,
) -> Response:
    """Show the budget, and the cost of groups of jobs."""
    budget = await api.get_budget(page.scope, session)
    report = await api.get_costs(
        page.caller, session, database, group_by, month, page.workspace.slug
    )
    return page.render(
        "costs.html",
        budget=budget,
        report=report,
        items=report.items[:SHOWN],
        shown=SHOWN,
        group_by=group_by,
        month=month,
        groups=GROUPS,
    )


@router.post("")
async def set_budget(page: AdminPage, database: InDatabase) -> Response:
    """Set the monthly limit of the workspace, or remove it if the field is empty."""
    text = (await texts(page.request)).get("monthly_limit_usd", "")
    request = validated(_BUDGET, {"monthly_limit_usd": number(text)})
    async with database.writing() as session:
        await api.set_budget(page.scope, request, session)
    return redirect(page.url("settings/costs"))
