"""The parts of a job in responses: its progress, its cost, and what its rehearsal showed."""

from typing import Literal

from pydantic import Field

from dreadnode_api.http.schemas import Plain, Response
from dreadnode_api.pricing.schemas import KindCounts, RatesView


class Capability(Response):
    """The versioned system prompt of a job, or `none`."""

    name: str = "none"
    version: str = "0.0.0"
    artifact_id: str | None = None
    runtime_digest: str | None = None


class CreatedBy(Response):
    """The user who created a job."""

    id: str
    email: str
    username: str
    full_name: str | None = None


class Progress(Response):
    """The progress of a job."""

    step: int | None = None
    steps: int | None = None
    tokens: int | None = Field(None, description="Tokens of all steps so far")
    loss: float | None = Field(None, description="Loss of the newest step of supervised training")
    reward: float | None = Field(None, description="Mean reward of the newest step's completions")
    eval_loss: float | None = Field(None, description="Loss of the newest evaluation")
    eval_reward: float | None = Field(None, description="Reward of the newest evaluation")
    seconds_left: float | None = None


class JobCost(Response):
    """The tokens that a job has used, and what they cost; amounts are decimal numbers."""

    paid: bool = Field(
        description="Whether the tokens are paid for: not in a rehearsal, nor on an engine of "
        "one's own"
    )
    usd: str | None = Field(description="The cost so far; null if a rate is not known")
    list_usd: str | None = Field(
        description="The tokens at the job's rates, whether they are paid for or not"
    )
    reason: Plain | None = Field(description="Why there is no total")
    tokens: KindCounts
    list_usd_by_kind: dict[str, str | None]
    rates: RatesView | None = Field(description="The rates in force when the job was submitted")
    earlier_usd: str = Field(description="The cost of the jobs that this one retries")
    limit_usd: str | None = Field(
        description="The cost at which the job stops, `earlier_usd` included; with the "
        "workspace's monthly limit only in the response for one job"
    )


class RehearsalReport(Response):
    """What a rehearsal has shown so far, and what the whole job would take and cost."""

    steps: int = Field(description="Steps of the rehearsal so far")
    metric: Literal["loss", "reward"]
    first: float = Field(description="Mean of the first quarter of its steps")
    last: float = Field(description="Mean of the last quarter")
    movement: Literal["falling", "rising", "flat"]
    tokens_per_step: float
    seconds_per_step: float | None = Field(description="With the stand-in, on this engine")
    whole_steps: int | None = Field(description="Steps of the whole job")
    whole_seconds: float | None = Field(description="Time of the whole job at the same speed")
    whole_usd_at_least: str | None = Field(
        description="Price of the whole job on its model, by the stand-in's tokenizer; a decimal "
        "number"
    )
    whole_usd_at_most: str | None
