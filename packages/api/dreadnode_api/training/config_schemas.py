"""The settings that every kind of job has: type, default, bounds and help, once.

`make docs` writes the job-file schema, the flags of `dn train`, the SDK's types and the tables of
the documentation from these fields.
"""

from typing import Annotated, Literal, Self

from pydantic import Field, field_validator, model_validator

from dreadnode_api.http.schemas import Request
from dreadnode_api.pricing.ledger import MAX_USD
from dreadnode_api.sandbox.trackers import Project, Tracker
from dreadnode_api.training.refs import Ref, SplitName
from dreadnode_api.training.setting_metadata import (
    DATA,
    EVALUATION,
    OPTIMIZER,
    TRACKING,
    TRAINING,
    DefaultFrom,
    Needs,
    NotOffered,
    mark,
)

MAX_STEPS = 10_000_000

# What differs between kinds of jobs is an alias, so that each kind states only its default.
LearningRate = Annotated[
    float | None, OPTIMIZER, Field(gt=0, le=1, description="Peak learning rate.")
]
EvalInterval = Annotated[
    int | None,
    EVALUATION,
    Needs("eval_dataset_ref"),
    Field(ge=1, le=MAX_STEPS, description="Steps between evaluations.", examples=[10]),
]

SystemPrompt = Annotated[
    str | None,
    DATA,
    Field(
        min_length=1,
        max_length=100_000,
        description="System prompt that is put before every conversation.",
        examples=["You are brief."],
    ),
]


class TrainConfig(Request):
    """The settings of any training; a setting that is left out has a default, echoed in the job.

    Bounds that depend on the model (`lora_rank`, `max_sequence_length`) are checked against it.
    """

    eval_dataset_ref: Annotated[
        Ref | None,
        EVALUATION,
        DefaultFrom("the training dataset, if `eval_split` is set"),
    ] = Field(None, description="Evaluation dataset.")
    eval_split: Annotated[
        SplitName | None, EVALUATION, DefaultFrom("the only split, or `validation`")
    ] = Field(None, description="Split of the evaluation dataset.", examples=["validation"])
    eval_interval: Annotated[EvalInterval, DefaultFrom("evaluation at the end only")] = None
    system_prompt: SystemPrompt = None
    tokenizer: Annotated[
        str | None, DATA, DefaultFrom("that of the engine's model, or under the server's `HF_HOME`")
    ] = Field(
        None,
        min_length=1,
        max_length=4096,
        description="Folder on the server's machine with the model's own tokenizer "
        "(`tokenizer.json`), for a model that the engine serves without one.",
        examples=["/srv/tokenizers/qwen3"],
    )
    steps: Annotated[int | None, TRAINING, DefaultFrom("as many as `epochs` takes")] = Field(
        None, ge=1, le=MAX_STEPS, description="Maximum number of steps.", examples=[100]
    )
    epochs: Annotated[
        int | None,
        TRAINING,
        DefaultFrom(
            "1, if `steps` is not set",
            lambda settings, context: None if "steps" in settings else 1,
        ),
    ] = Field(None, ge=1, le=10_000, description="Number of epochs.", examples=[1])
    from_adapter: Annotated[str | None, TRAINING, DefaultFrom("a new adapter")] = Field(
        None,
        min_length=1,
        max_length=500,
        description="Weights to start from: a job (id or name, also `JOB@best` or "
        "`JOB@step-000100`) or a `tinker://` path. They decide `lora_rank` and the layers.",
        examples=["first try@best"],
    )
    lora_rank: Annotated[int | None, TRAINING] = Field(
        16, ge=1, le=1024, description="Rank of the LoRA adapter."
    )
    lora_alpha: Annotated[
        int | None, NotOffered("Tinker fixes it, so that a value would have no effect")
    ] = Field(None, description="Not offered here: Tinker fixes it.")
    train_mlp: Annotated[bool | None, TRAINING] = Field(
        True, description="Train the layers of the MLP, experts included."
    )
    train_attn: Annotated[bool | None, TRAINING] = Field(
        True, description="Train the attention projections."
    )
    train_unembed: Annotated[
        bool | None,
        TRAINING,
        DefaultFrom(
            "off if the model ties its last layer to its embeddings, else on", lambda *_: True
        ),
    ] = Field(None, description="Train the last layer, the unembedding (`lm_head`).")
    learning_rate: LearningRate = 1e-4
    learning_rate_schedule: Annotated[Literal["constant", "linear", "cosine"] | None, OPTIMIZER] = (
        Field("constant", description="Learning rate schedule after the warm-up.")
    )
    warmup_steps: Annotated[int | None, OPTIMIZER] = Field(
        0, ge=0, le=MAX_STEPS, description="Steps of linear learning rate warm-up."
    )
    weight_decay: Annotated[float | None, OPTIMIZER] = Field(
        0.0, ge=0, le=1, description="Decoupled weight decay (AdamW)."
    )
    grad_clip_norm: Annotated[float | None, OPTIMIZER] = Field(
        0.0, ge=0, description="Clip gradients to this norm; 0 disables clipping."
    )
    adam_beta1: Annotated[float | None, OPTIMIZER] = Field(
        0.9, ge=0, lt=1, description="Adam decay rate of the first moment (mean of gradients)."
    )
    adam_beta2: Annotated[float | None, OPTIMIZER] = Field(
        0.95,
        ge=0,
        lt=1,
        description="Adam decay rate of the second moment (variance of gradients).",
    )
    adam_eps: Annotated[float | None, OPTIMIZER] = Field(
        1e-8, gt=0, le=1, description="Adam epsilon, added to the denominator."
    )
    checkpoint_interval: Annotated[int | None, TRAINING] = Field(
        10, ge=1, le=MAX_STEPS, description="Steps between checkpoints."
    )
    shuffle: Annotated[bool | None, DATA] = Field(
        True, description="Shuffle the rows in every epoch; off keeps the order of the file."
    )
    strict: Annotated[bool | None, DATA] = Field(
        False, description="Refuse the job if a single row cannot be used."
    )
    seed: Annotated[int | None, TRAINING] = Field(
        0,
        ge=0,
        lt=2**31,
        description="Random seed for data order, adapter initialization and sampling.",
    )
    max_cost_usd: Annotated[float | None, TRAINING] = Field(
        None,
        gt=0,
        le=MAX_USD,
        description="Maximum cost in US dollars, retries included: the job stops after the step "
        "that reaches it, saves a checkpoint, and can be resumed with a larger limit.",
        examples=[5.0],
    )
    track: Annotated[
        list[Tracker] | None, TRACKING, DefaultFrom("the server's `DREADNODE_TRACK`")
    ] = Field(
        None,
        max_length=3,
        description="Experiment trackers that also record the run; the server must be set up "
        "for them.",
        examples=[["tensorboard"]],
    )
    track_project: Annotated[
        Project | None, TRACKING, DefaultFrom("`dreadnode` if a tracker is used")
    ] = Field(
        None,
        description="Project, experiment or folder of the trackers.",
        examples=["harbour"],
    )

    @field_validator("tokenizer")
    @classmethod
    def _is_absolute(cls, folder: str | None) -> str | None:
        if folder is not None and (not folder.startswith("/") or "\0" in folder):
            raise ValueError("must be the absolute path of a folder on the server's machine")
        return folder

    @model_validator(mode="after")
    def _no_setting_is_without_effect(self) -> Self:
        if {self.train_mlp, self.train_attn, self.train_unembed} == {False}:
            raise ValueError(
                "turn on one of `train_mlp`, `train_attn` and `train_unembed`; the adapter has "
                "nothing to train without them"
            )
        refuse_without_effect(self)
        return self


def refuse_without_effect(config: Request) -> None:
    """Return if every setting of CONFIG that is given has an effect.

    Raises:
        ValueError: one is not offered here, or lacks the setting that it needs.
    """
    for name, field in type(config).model_fields.items():
        if getattr(config, name) is None:
            continue
        if refused := mark(field, NotOffered):
            raise ValueError(f"leave `{name}` out: {refused.instead}")
        needs = mark(field, Needs)
        if needs and getattr(config, needs.setting) is None:
            raise ValueError(f"`{name}` has no effect without `{needs.setting}`; give both")
