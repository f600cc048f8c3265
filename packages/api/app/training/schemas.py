"""What the routes of jobs take and give."""

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Discriminator, Field, Tag, model_validator

from app.jobs.tables import Status
from app.schemas import Moment, Plain, Request, Response, unmarked
from app.training.refs import Ref, SplitName, evaluated
from app.training.rl_schemas import RlConfig
from app.training.tracking import Project, Tracker

Backend = Literal["tinker", "ray"]
TrainerType = Literal["sft", "rl"]
Level = Literal["debug", "info", "warning", "error"]
EventType = Literal[
    "training_start",
    "step_complete",
    "eval_complete",
    "checkpoint_writing",
    "checkpoint_saved",
    "training_end",
    "training_error",
    "log",
    "phase",
]
Phase = Literal[
    "validating",
    "waiting for capacity",
    "starting",
    "training",
    "evaluating",
    "saving",
    "cancelling",
]


Label = Annotated[str, Field(min_length=1, max_length=200), AfterValidator(unmarked)]


_NEEDS = {
    "eval_interval": "eval_dataset_ref",
    "early_stopping_patience": "eval_interval",
    "early_stopping_min_delta": "early_stopping_patience",
}


class SftConfig(Request):
    """The settings of supervised fine-tuning; what is left out has a default, echoed in the job.

    Bounds that depend on the model (`lora_rank`, `max_sequence_length`) are checked against it.
    """

    dataset_ref: Ref | None = Field(None, description="What is trained on")
    split: SplitName | None = Field(
        None, description="Of the dataset; the only one, or `train`, if left out"
    )
    trajectory_dataset_refs: list[Ref] = Field(default=[], max_length=16)
    eval_dataset_ref: Ref | None = Field(
        None, description="What is evaluated on; with `eval_split` alone, the dataset itself"
    )
    eval_split: SplitName | None = Field(
        None, description="Of the data to evaluate on; the only one, or `validation`, if left out"
    )
    system_prompt: str | None = Field(None, min_length=1, max_length=100_000)
    max_sequence_length: int | None = Field(None, ge=2)
    batch_size: int | None = Field(None, ge=1, le=4096)
    gradient_accumulation_steps: int | None = Field(None, ge=1, le=1024)
    steps: int | None = Field(None, ge=1, le=10_000_000)
    epochs: int | None = Field(None, ge=1, le=10_000)
    lora_rank: int | None = Field(None, ge=1, le=1024)
    lora_alpha: int | None = None
    learning_rate: float | None = Field(None, gt=0, le=1)
    learning_rate_schedule: Literal["constant", "linear", "cosine"] | None = None
    warmup_steps: int | None = Field(None, ge=0, le=10_000_000)
    weight_decay: float | None = Field(None, ge=0, le=1)
    grad_clip_norm: float | None = Field(None, ge=0, description="0 is no limit")
    checkpoint_interval: int | None = Field(None, ge=1, le=10_000_000)
    eval_interval: int | None = Field(None, ge=1, le=10_000_000)
    early_stopping_patience: int | None = Field(None, ge=1, le=10_000)
    early_stopping_min_delta: float | None = Field(None, ge=0)
    train_on: (
        Literal["all_assistant_messages", "last_assistant_message", "last_assistant_turn"] | None
    ) = None
    shuffle: bool | None = None
    strict: bool | None = Field(None, description="Refuse the job for one unusable row")
    seed: int | None = Field(None, ge=0, lt=2**31)
    adam_beta1: float | None = Field(None, ge=0, lt=1)
    adam_beta2: float | None = Field(None, ge=0, lt=1)
    adam_eps: float | None = Field(None, gt=0, le=1)
    track: list[Tracker] | None = Field(
        None, max_length=3, description="Where to follow the run; the server decides if left out"
    )
    track_project: Project | None = Field(None, description="Under which project, or experiment")

    @model_validator(mode="before")
    @classmethod
    def _evaluated(cls, value: Any) -> Any:
        return evaluated(value, "dataset_ref")

    @model_validator(mode="after")
    def _sensible(self) -> "SftConfig":
        if self.lora_alpha is not None:
            raise ValueError(
                "leave `lora_alpha` out: Tinker fixes it, so that a value would have no effect"
            )
        if self.trajectory_dataset_refs:
            raise ValueError(
                "trajectories are trained on through `dataset_ref`: push them as a dataset, "
                "one trajectory a row, and leave `trajectory_dataset_refs` out"
            )
        if self.dataset_ref is None:
            raise ValueError("name the dataset to train on in `dataset_ref`")
        for setting, needed in _NEEDS.items():
            if getattr(self, setting) is not None and getattr(self, needed) is None:
                raise ValueError(f"`{setting}` has no effect without `{needed}`; give both")
        return self


class _JobRequest(Request):
    """What every wish for a job holds."""

    model: str | None = Field(None, max_length=200, description="The catalog's `tinker_id`")
    base_model: str | None = Field(None, max_length=200, description="The same field as `model`")
    backend: Backend = "tinker"
    capability_ref: Ref | None = Field(None, description="Optional; a versioned system prompt")
    name: Label | None = None
    tags: list[Label] = Field(default=[], max_length=50)
    project_ref: Label | None = None
    run_ref: Label | None = None
    rehearse: bool = Field(False, description="Train the engine's small stand-in instead")

    @model_validator(mode="after")
    def _one_model(self) -> "_JobRequest":
        if self.model is None and self.base_model is None:
            raise ValueError("name the base model in `model`; `dn train catalog` lists them")
        if None not in (self.model, self.base_model) and self.model != self.base_model:
            raise ValueError("`model` and `base_model` are one field; give one, or both alike")
        return self

    @property
    def model_id(self) -> str:
        """The base model, whichever field named it."""
        return self.model if self.model is not None else self.base_model or ""


class SftJobRequest(_JobRequest):
    """A wish for a supervised fine-tuning job."""

    trainer_type: Literal["sft"]
    config: SftConfig


class RlJobRequest(_JobRequest):
    """A wish for a reinforcement-learning job."""

    trainer_type: Literal["rl"]
    config: RlConfig


class RayJobRequest(_JobRequest):
    """A wish for what is not offered here, understood as far as it takes to say so."""

    trainer_type: Literal["rl"]
    config: dict[str, Any]


def _trainer(value: Any) -> str:
    wish = value if isinstance(value, dict) else {}
    kind = wish.get("trainer_type", "sft")
    if kind == "rl" and wish.get("backend") == "ray":
        return "ray"
    return kind if kind in ("sft", "rl") else "sft"


JobRequest = Annotated[
    Annotated[SftJobRequest, Tag("sft")]
    | Annotated[RlJobRequest, Tag("rl")]
    | Annotated[RayJobRequest, Tag("ray")],
    Discriminator(_trainer),
]


class ProgressRequest(Request):
    """One thing that a sandbox tells of its job."""

    event_type: EventType
    message: str | None = Field(None, max_length=20_000)
    level: Level = "info"
    metrics: dict[str, Any] = Field(default_factory=dict)
    data: dict[str, Any] = Field(default_factory=dict)
    artifacts: dict[str, Any] | None = None
    error: str | None = Field(None, max_length=20_000)
    attempt: int | None = Field(None, ge=1)
    seq: int | None = Field(None, ge=1, description="From 1 within an attempt, without gaps")


class Capability(Response):
    """The versioned system prompt of a job, or `none`."""

    name: str = "none"
    version: str = "0.0.0"
    artifact_id: str | None = None
    runtime_digest: str | None = None


class CreatedBy(Response):
    """Who made a job."""

    id: str
    email: str
    username: str
    full_name: str | None = None


class Progress(Response):
    """How far a job has come."""

    step: int | None = None
    steps: int | None = None
    tokens: int | None = Field(None, description="Of all steps so far")
    loss: float | None = Field(None, description="Of the newest step, of supervised training")
    reward: float | None = Field(None, description="Mean of the newest step's answers")
    eval_loss: float | None = Field(None, description="Of the newest evaluation")
    eval_reward: float | None = Field(None, description="Of the newest evaluation")
    seconds_left: float | None = None


class TrainingJob(Response):
    """A job: what was asked, with every default resolved, and where it stands."""

    id: str
    organization_id: str
    workspace_id: str
    name: str | None
    status: Status
    phase: Phase | None = Field(description="What a job that has not ended is doing")
    phase_reason: Plain | None
    backend: Backend
    trainer_type: TrainerType
    algorithm: str | None
    model: str
    base_model: str
    trained_model: str = Field(description="What is really trained; a stand-in in a rehearsal")
    rehearsal: bool
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
    metrics: dict[str, Any] = Field(description="Scalars, and series on their axis of steps")
    artifacts: dict[str, Any]
    error: Plain | None
    error_code: str | None
    attempt: int = Field(description="0 before the first start")
    retry_of: str | None
    created_by: str | None
    created_by_email: str | None
    created_by_user: CreatedBy | None
    created_at: Moment
    updated_at: Moment
    started_at: Moment | None
    completed_at: Moment | None
    cancel_requested_at: Moment | None


class JobPage(Response):
    """Jobs, newest first; their `metrics` hold the scalars only."""

    items: list[TrainingJob]
    total: int
    page: int
    page_size: int


class LogEntry(Response):
    """One line of a job's log."""

    timestamp: Moment
    level: Level
    message: Plain
    data: dict[str, Any]
    cursor: int = Field(description="Give it as `after` to go on behind this line")


class LogPage(Response):
    """Lines of a job's log, oldest first."""

    items: list[LogEntry]


class Artifacts(Response):
    """What a job has made."""

    artifacts: dict[str, Any]


class RLContext(Response):
    """What a reinforcement-learning sandbox needs beside its config."""

    capability_entry_prompt: str | None = None
    reward_recipe: dict[str, Any] | None = None
    sampled_trajectory_dataset_ref: str | None = None


class JobFileView(Response):
    """A file that a job has handed in."""

    path: str
    bytes: int
    sha256: str


class JobFileList(Response):
    """The files of a job, by path."""

    items: list[JobFileView]
