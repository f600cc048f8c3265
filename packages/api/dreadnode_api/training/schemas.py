"""The requests and responses of the job routes."""

import re
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Discriminator, Field, Tag, model_validator

from dreadnode_api.http.schemas import Plain, Request, Response, Timestamp, single_line
from dreadnode_api.models.jobs import Status
from dreadnode_api.pricing.ledger import MAX_TOKENS, MAX_USD
from dreadnode_api.training.config_schemas import MAX_STEPS
from dreadnode_api.training.eval_schemas import EvalConfig
from dreadnode_api.training.job_schemas import (
    Capability,
    CreatedBy,
    JobCost,
    Progress,
    RehearsalReport,
)
from dreadnode_api.training.refs import Ref
from dreadnode_api.training.rl_schemas import RlConfig
from dreadnode_api.training.rollout_schemas import RolloutsReport
from dreadnode_api.training.sft_schemas import SftConfig

Backend = Literal["tinker", "ray"]
TrainerType = Literal["sft", "rl", "eval"]
Level = Literal["debug", "info", "warning", "error"]
LEVELS: tuple[Level, ...] = ("debug", "info", "warning", "error")
EventType = Literal[
    "training_start",
    "step_complete",
    "eval_complete",
    "rollouts",
    "checkpoint_writing",
    "checkpoint_saved",
    "training_end",
    "training_error",
    "log",
    "phase",
]
Phase = Literal[
    "validating",
    "rehearsing",
    "waiting for capacity",
    "starting",
    "training",
    "evaluating",
    "saving",
    "cancelling",
]


Label = Annotated[str, Field(min_length=1, max_length=200), AfterValidator(single_line)]


def levels_from(lowest: Level) -> tuple[Level, ...]:
    """Return the levels of lines from LOWEST on; none stands for all of them."""
    return () if lowest == LEVELS[0] else LEVELS[LEVELS.index(lowest) :]


JobName = Annotated[Label | None, Field(description="Name of the job.", examples=["first try"])]
JobTags = Annotated[list[Label], Field(default=[], max_length=50, description="Tags of the job.")]
ProjectRef = Annotated[
    Label | None, Field(description="Project that the job belongs to.", examples=["harbour"])
]
RunRef = Annotated[
    Label | None, Field(description="Id of the run in another system.", examples=["harbour-7"])
]


class _JobRequest(Request):
    """The settings of any job."""

    model: str | None = Field(
        None, max_length=200, description="Base model: the `tinker_id` of a catalog entry."
    )
    base_model: str | None = Field(
        None, max_length=200, description="Another name of the field `model`."
    )
    backend: Backend = "tinker"
    capability_ref: Ref | None = Field(
        None, description="Capability whose system prompt is used in place of `system_prompt`."
    )
    name: JobName = None
    tags: JobTags
    project_ref: ProjectRef = None
    run_ref: RunRef = None
    rehearse: bool = Field(
        False, description="Train a small stand-in model instead: same data, config and loop."
    )
    rehearse_first: bool = Field(
        False, description="Rehearse first; the job starts only if its rehearsal completes."
    )
    rehearse_steps: int | None = Field(
        None,
        ge=1,
        le=MAX_STEPS,
        description="Steps of the rehearsal; all steps of the job if not set.",
        examples=[20],
    )

    @model_validator(mode="after")
    def _one_model(self) -> "_JobRequest":
        if self.model is None and self.base_model is None:
            raise ValueError("name the base model in `model`; `dn train catalog` lists them")
        if None not in (self.model, self.base_model) and self.model != self.base_model:
            raise ValueError("`model` and `base_model` are one field; give one, or both alike")
        return self

    @model_validator(mode="after")
    def _one_rehearsal(self) -> "_JobRequest":
        if self.rehearse and self.rehearse_first:
            raise ValueError("`rehearse` and `rehearse_first` exclude each other; give one of them")
        if self.rehearse_steps is not None and not (self.rehearse or self.rehearse_first):
            raise ValueError(
                "`rehearse_steps` has no effect without `rehearse` or `rehearse_first`; give both"
            )
        return self

    @property
    def model_id(self) -> str:
        """The base model, from either field."""
        return self.model if self.model is not None else self.base_model or ""


class SftJobRequest(_JobRequest):
    """A request for a supervised fine-tuning job."""

    trainer_type: Literal["sft"]
    config: SftConfig


class RlJobRequest(_JobRequest):
    """A request for a reinforcement-learning job."""

    trainer_type: Literal["rl"]
    config: RlConfig


class RayJobRequest(_JobRequest):
    """A request for a Ray backend, which is understood only to refuse it."""

    trainer_type: Literal["rl"]
    config: dict[str, Any]


class EvalJobRequest(Request):
    """A request for an evaluation of several models on the same rows."""

    trainer_type: Literal["eval"]
    backend: Backend = "tinker"
    name: JobName = None
    tags: JobTags
    project_ref: ProjectRef = None
    run_ref: RunRef = None
    config: EvalConfig


def _trainer(value: Any) -> str:
    request = value if isinstance(value, dict) else {}
    kind = request.get("trainer_type", "sft")
    if kind == "rl" and request.get("backend") == "ray":
        return "ray"
    return kind if kind in ("sft", "rl", "eval") else "sft"


TrainingRequest = SftJobRequest | RlJobRequest | RayJobRequest
JobRequest = Annotated[
    Annotated[SftJobRequest, Tag("sft")]
    | Annotated[RlJobRequest, Tag("rl")]
    | Annotated[EvalJobRequest, Tag("eval")]
    | Annotated[RayJobRequest, Tag("ray")],
    Discriminator(_trainer),
]


class RetryRequest(Request):
    """How a job is retried."""

    from_start: bool = Field(
        False, description="Start over from step 0, even if there is a checkpoint to resume from"
    )
    max_cost_usd: float | None = Field(
        None,
        gt=0,
        le=MAX_USD,
        description="Another limit of the cost, that of the retried jobs included; the old one "
        "if not set",
    )


def _count(value: Any) -> Any:
    return int(value) if isinstance(value, str) and re.fullmatch(r"[0-9]{1,19}", value) else value


Tokens = Annotated[
    int,
    BeforeValidator(_count, json_schema_input_type=int | str),
    Field(ge=0, le=MAX_TOKENS, description="A number, or from 2**53 on a string of digits"),
]


class TokenUsage(Request):
    """How many tokens an attempt has sent to the engine and got back so far, by kind."""

    prefill: Tokens = 0
    cached_prefill: Tokens = 0
    sample: Tokens = 0
    train: Tokens = 0


class ProgressRequest(Request):
    """One event that a sandbox reports about its job."""

    event_type: EventType
    message: str | None = Field(None, max_length=20_000)
    level: Level = "info"
    metrics: dict[str, Any] = Field(default_factory=dict)
    data: dict[str, Any] = Field(default_factory=dict)
    artifacts: dict[str, Any] | None = None
    rollouts: RolloutsReport | None = None
    error: str | None = Field(None, max_length=20_000)
    usage: TokenUsage | None = Field(None, description="Totals of the attempt, which only grow")
    attempt: int | None = Field(None, ge=1)
    seq: int | None = Field(None, ge=1, description="From 1 within an attempt, without gaps")


class TrainingJob(Response):
    """A job: its config with every default resolved, and its state."""

    id: str
    organization_id: str
    workspace_id: str
    name: str | None
    status: Status
    phase: Phase | None = Field(description="What a job that has not ended is doing")
    phase_reason: Plain | None = Field(
        description="Why it does that; of a queued job, its position and the limit that holds it"
    )
    queue_position: int | None = Field(
        None, description="Of a queued job: its position in the workspace's queue; null in lists"
    )
    backend: Backend
    trainer_type: TrainerType
    algorithm: str | None
    model: str
    base_model: str
    trained_model: str = Field(
        description="The model that the engine trains; in a rehearsal, the stand-in"
    )
    rehearsal: bool
    rehearsal_id: str | None = Field(description="The rehearsal after which the job starts")
    rehearse_steps: int | None = Field(description="Of a rehearsal: the steps after which it ends")
    rehearsal_report: RehearsalReport | None = Field(
        None, description="Of a rehearsal that has done a step; null in lists"
    )
    capability: Capability
    project_ref: str | None
    run_ref: str | None
    dataset_ref: dict[str, str] | None
    eval_dataset_ref: dict[str, str] | None
    prompt_dataset_ref: dict[str, str] | None = None
    trajectory_dataset_refs: list[dict[str, str]]
    task_ref: dict[str, str] | None = None
    tags: list[str]
    config: dict[str, Any]
    preflight: dict[str, Any] | None
    progress: Progress | None
    cost: JobCost
    stopped_by: str | None = Field(
        description="Why a completed job has not done all its steps: `budget`, or null"
    )
    metrics: dict[str, Any] = Field(description="Scalars, and metric histories over steps")
    artifacts: dict[str, Any]
    error: Plain | None
    error_code: str | None
    error_log: list[Plain] = Field(
        default_factory=list,
        description="The last lines of the log of a failed job; empty in lists",
    )
    attempt: int = Field(description="0 before the first start")
    retry_of: str | None
    start_step: int | None = Field(
        description="Of a retry: the step of the checkpoint that it resumes from, 0 if it "
        "starts over"
    )
    created_by: str | None
    created_by_email: str | None
    created_by_user: CreatedBy | None
    created_at: Timestamp
    updated_at: Timestamp
    started_at: Timestamp | None
    completed_at: Timestamp | None
    cancel_requested_at: Timestamp | None


class JobPage(Response):
    """Jobs, newest first; their `metrics` hold the scalars only."""

    items: list[TrainingJob]
    total: int
    page: int
    page_size: int


class LogEntry(Response):
    """One line of a job's log."""

    timestamp: Timestamp
    level: Level
    message: Plain
    data: dict[str, Any]
    cursor: int = Field(description="Pass it as `after` to read on after this line")


class LogPage(Response):
    """Lines of a job's log, oldest first."""

    items: list[LogEntry]


class Artifacts(Response):
    """The artifacts of a job."""

    artifacts: dict[str, Any]


class RLContext(Response):
    """What a reinforcement-learning sandbox needs besides its config."""

    capability_entry_prompt: str | None = None
    reward_recipe: dict[str, Any] | None = None
    sampled_trajectory_dataset_ref: str | None = None
