"""What the jobs of an organization cost, by job, model, workspace or month."""

from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, Literal

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from dreadnode_api.models.auth import Workspace
from dreadnode_api.models.jobs import DeletedJobCost, Job
from dreadnode_api.pricing.budget import month_of
from dreadnode_api.pricing.ledger import job_cost, job_tokens
from dreadnode_api.pricing.rates import TokenCounts

GroupBy = Literal["job", "model", "workspace", "month"]
_COLUMNS = ("workspace_id", "name", "model", "created_at", "paid", "rates", "usage")


@dataclass(slots=True)
class CostRow:
    """The cost of a group of jobs.

    Attributes:
        key: the id of the job, the id of the model, the slug of the workspace, or the month.
        name: the name of the job.
        usd: what was paid; None if a rate that it needs is not known.
        list_usd: the tokens at the jobs' rates, paid for or not.
        reason: why there is no sum.
    """

    key: str
    name: str | None = None
    jobs: int = 0
    tokens: TokenCounts = field(default_factory=TokenCounts)
    usd: Decimal | None = Decimal(0)
    list_usd: Decimal | None = Decimal(0)
    reason: str | None = None

    def add(self, job: Job | DeletedJobCost) -> None:
        """Add a job; a sum over an unknown rate is unknown."""
        found = job_cost(job)
        self.jobs += 1
        self.tokens += job_tokens(job)
        self.list_usd = _sum(self.list_usd, found.total)
        self.usd = _sum(self.usd, found.total if job.paid else Decimal(0))
        self.reason = self.reason or found.reason


async def cost_rows(
    session: AsyncSession,
    org_id: str,
    group_by: GroupBy,
    *,
    month: datetime | None = None,
    workspace_id: str | None = None,
) -> tuple[list[CostRow], CostRow]:
    """Return the cost of each group of jobs that used tokens, and the total.

    Args:
        session: a session to read with.
        org_id: the organization.
        group_by: what the groups are.
        month: only jobs that were submitted in the month of this moment, in UTC.
        workspace_id: only jobs of this workspace.
    """
    names = await _workspaces(session, org_id)
    wanted = [each for each in names if workspace_id in (None, each)]
    rows: dict[str, CostRow] = {}
    total = CostRow("total")
    async for job in _jobs(session, wanted, month):
        if not job.usage:
            continue
        key = _key(job, group_by, names)
        row = rows.setdefault(key, CostRow(key, job.name if group_by == "job" else None))
        row.add(job)
        total.add(job)
    ordered = sorted(rows.values(), key=lambda row: row.key, reverse=group_by in ("job", "month"))
    if group_by in ("model", "workspace"):
        ordered.sort(key=lambda row: (row.list_usd is not None, -(row.list_usd or 0)))
    return ordered, total


async def _workspaces(session: AsyncSession, org_id: str) -> dict[str, str]:
    found = await session.execute(
        select(Workspace.id, Workspace.slug).where(Workspace.org_id == org_id)
    )
    return {row.id: row.slug for row in found}


async def _jobs(
    session: AsyncSession, workspaces: list[str], month: datetime | None
) -> AsyncIterator[Any]:
    identities: dict[Any, Any] = {Job: Job.id, DeletedJobCost: DeletedJobCost.job_id}
    for table, identity in identities.items():
        # Not whole jobs: their configs and reports are large.
        columns = [getattr(table, name) for name in _COLUMNS]
        statement = select(identity.label("id"), *columns).where(
            table.workspace_id.in_(workspaces), table.usage.is_not(None)
        )
        if month is not None:
            start, end = month_of(month)
            statement = statement.where(table.created_at >= start, table.created_at < end)
        async for row in await session.stream(statement):
            yield row


def _key(job: Any, group_by: GroupBy, workspaces: dict[str, str]) -> str:
    if group_by == "job":
        return str(job.id)
    if group_by == "model":
        return str(job.model)
    if group_by == "workspace":
        return workspaces[job.workspace_id]
    return f"{job.created_at.astimezone(UTC):%Y-%m}"


def _sum(total: Decimal | None, more: Decimal | None) -> Decimal | None:
    return None if total is None or more is None else total + more
