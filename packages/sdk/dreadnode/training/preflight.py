"""What is known of a job before it exists: its data, its warnings and its price."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from dreadnode.training.estimates import Estimate, JobWarning, Tokens
from dreadnode.training.jobs import Preflight
from dreadnode.wire import Response


class JobPlan(Response):
    """The steps of a job, and the fewest and the most tokens that it sends."""

    steps: int
    rows_per_epoch: int
    rows_per_step: int
    evaluations: int = 0
    at_least: Tokens
    at_most: Tokens


class ShownPart(Response):
    """Text of neighboring tokens; `trained` says whether they carry loss."""

    text: str
    trained: bool


class ShownSequence(Response):
    """One sequence of a row; a long one is shown up to a limit."""

    parts: list[ShownPart]
    tokens: int
    tokens_not_shown: int = 0


class ShownRow(Response):
    """A rendered row as text."""

    row: int
    sequences: list[ShownSequence]


class RewardSample(Response):
    """The reward of a right, a wrong or an empty completion.

    Attributes:
        row: The row of the prompt.
        kind: right, wrong or empty.
        reward: None if the reward failed, which `error` describes.
    """

    row: int
    kind: str
    completion: str
    reward: float | None = None
    error: str | None = None


class CheckReport(Preflight):
    """What the check of the data found."""

    plan: JobPlan | None = None
    shown: ShownRow | None = None
    reward_samples: list[RewardSample] = Field(default_factory=list)


class ModelTerms(Response):
    """The model of a job and its terms."""

    tinker_id: str
    status: str
    context_length: int
    max_lora_rank: int | None = None
    retired_on: str | None = None
    replacement: str | None = None
    notes: list[str] = Field(default_factory=list)


class ComparedModel(Response):
    """What a job would cost on one model of the catalog.

    Attributes:
        available: Whether the server can train it now.
        fits: Whether the longest row fits into its context.
    """

    model: str
    status: str
    available: bool
    context_length: int
    fits: bool
    price: Estimate


class PreflightReport(Response):
    """What is known of a job before it exists.

    Attributes:
        trained_model: In a rehearsal, the stand-in.
        config: The settings with every default filled in.
        report: What the check of the data found.
        price: None if the number of tokens is not known.
        is_paid: Whether the job is charged; on the server's own engine it is not.
        comparison: With `compare`, the catalog's models, the cheapest first.
    """

    model: ModelTerms
    trained_model: str
    rehearsal: bool
    config: dict[str, Any]
    report: CheckReport
    warnings: list[JobWarning] = Field(default_factory=list)
    price: Estimate | None = None
    is_paid: bool
    comparison: list[ComparedModel] | None = None
