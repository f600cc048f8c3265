"""What jobs cost, and the monthly limit of a workspace; amounts are US dollars."""

from __future__ import annotations

from decimal import Decimal

from dreadnode.wire import Response


class Budget(Response):
    """The monthly limit of a workspace.

    Attributes:
        month: The current month in UTC, as 2026-11.
        monthly_limit_usd: None if unlimited.
        used_usd: What the jobs submitted this month have cost, with the reservations of those that
            have not ended.
        left_usd: What is left of the limit.
    """

    workspace: str
    month: str
    monthly_limit_usd: Decimal | None = None
    used_usd: Decimal
    left_usd: Decimal | None = None


class CostRow(Response):
    """The cost of a group of jobs.

    Attributes:
        key: The id of the job or the model, the slug of the workspace, or the month.
        name: The name of the job.
        jobs: Number of jobs that used tokens.
        tokens: Tokens by kind: prefill, cached_prefill, sample and train.
        usd: What was paid; None if a rate is not known.
        list_usd: The tokens at the jobs' rates, whether they are paid for or not.
        reason: Why there is no sum.
    """

    key: str
    name: str | None = None
    jobs: int
    tokens: dict[str, int]
    usd: Decimal | None = None
    list_usd: Decimal | None = None
    reason: str | None = None


class CostReport(Response):
    """What jobs cost, by job, model, workspace or month."""

    group_by: str
    month: str | None = None
    workspace: str | None = None
    items: list[CostRow]
    total: CostRow
