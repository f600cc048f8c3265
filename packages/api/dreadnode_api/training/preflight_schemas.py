"""The response of the preflight route: what is known of a job before it exists."""

from typing import Any, Literal

from pydantic import Field

from dreadnode_api.http.schemas import Plain, Response
from dreadnode_api.pricing.schemas import KindAmounts, KindCounts, RatesView


class JobWarning(Response):
    """A warning about a job that can run: a word for programs, and a sentence."""

    code: str
    message: Plain


class TokenizerView(Response):
    """How tokens were counted."""

    is_own: bool = Field(description="Whether by the model's own tokenizer")
    error: float | None = Field(
        None, description="Otherwise, the largest error of such a count in measurements, as a share"
    )
    explanation: Plain | None = None


class Side(Response):
    """The lower or the upper end of an estimate."""

    tokens: KindCounts
    usd_by_kind: KindAmounts
    usd: str | None = Field(description="The sum; null if a rate is not known")


class EstimateView(Response):
    """The price of a job that runs to its end without interruption."""

    is_exact: bool = Field(description="Whether the number of tokens is known")
    rates: RatesView
    tokenizer: TokenizerView
    at_least: Side
    at_most: Side
    reason: Plain | None = Field(description="Why there is no total")


class ModelTerms(Response):
    """The model of a job and its terms."""

    tinker_id: str
    status: Literal["active", "retired"]
    context_length: int
    max_lora_rank: int | None
    retired_on: str | None
    replacement: str | None
    notes: list[str]


class ComparedModel(Response):
    """What a job would cost on one model of the catalog."""

    model: str
    status: Literal["active", "retired"]
    available: bool = Field(description="Whether this server can train it now")
    context_length: int
    fits: bool = Field(description="Whether the longest row fits into its context")
    price: EstimateView


class PreflightReport(Response):
    """What is known of a job before it exists."""

    model: ModelTerms
    trained_model: str = Field(description="In a rehearsal, the stand-in")
    rehearsal: bool
    config: dict[str, Any] = Field(description="The settings with every default filled in")
    report: dict[str, Any] = Field(description="What the check of the data found")
    warnings: list[JobWarning]
    price: EstimateView | None
    is_paid: bool = Field(
        description="Whether the job is charged; on this server's own engine it is not"
    )
    comparison: list[ComparedModel] | None = Field(
        None, description="With `compare`: the catalog's models, the cheapest first"
    )
