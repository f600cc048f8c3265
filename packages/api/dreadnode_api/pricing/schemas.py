"""Tokens, rates, budgets and costs in requests and responses; amounts are decimal numbers."""

from pydantic import Field

from dreadnode_api.http.schemas import Plain, Request, Response
from dreadnode_api.pricing.ledger import MAX_USD
from dreadnode_api.pricing.report import GroupBy


class BudgetRequest(Request):
    """The monthly limit of a workspace."""

    monthly_limit_usd: float | None = Field(
        gt=0, le=MAX_USD, description="In US dollars; null if unlimited", examples=[250.0]
    )


class BudgetView(Response):
    """The monthly limit of a workspace, and how much of it is left this month."""

    workspace: str
    month: str = Field(description="The current month in UTC, as 2026-11")
    monthly_limit_usd: str | None = Field(description="Null if unlimited")
    used_usd: str = Field(
        description="What the jobs submitted this month have cost, with the reservations of those "
        "that have not ended"
    )
    left_usd: str | None


class KindCounts(Response):
    """Numbers of tokens by kind."""

    prefill: int
    cached_prefill: int
    sample: int
    train: int


class KindAmounts(Response):
    """US dollars by kind, as decimal numbers in strings; null where the rate is not known."""

    prefill: str | None
    cached_prefill: str | None
    sample: str | None
    train: str | None


class RatesView(KindAmounts):
    """What a model costs, in US dollars per million tokens."""

    model: str
    as_of: str | None = Field(description="Day or month on which the rates were read")
    promotion: str | None = Field(description="A discount that is contained in the rates")
    list_rates: dict[str, str] | None = Field(description="The rates without that discount")


class CostRowView(Response):
    """The cost of a group of jobs."""

    key: str = Field(description="Id of the job or the model, slug of the workspace, or month")
    name: str | None = Field(description="Name of the job")
    jobs: int = Field(description="Jobs that used tokens")
    tokens: KindCounts
    usd: str | None = Field(description="What was paid; null if a rate is not known")
    list_usd: str | None = Field(description="The tokens at the jobs' rates, paid for or not")
    reason: Plain | None = Field(description="Why there is no sum")


class CostReport(Response):
    """What jobs cost, by job, model, workspace or month."""

    group_by: GroupBy
    month: str | None
    workspace: str | None
    items: list[CostRowView]
    total: CostRowView
