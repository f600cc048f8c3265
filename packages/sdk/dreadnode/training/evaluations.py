"""The result of an evaluation."""

from __future__ import annotations

from pydantic import Field

from dreadnode.training.eval_request import EvalConfig as EvalConfig
from dreadnode.training.eval_request import EvalRequest as EvalRequest
from dreadnode.wire import Response


class EvaluationFigure(Response):
    """A mean or a difference over rows, with its 95 % confidence interval.

    Attributes:
        low: The lower end; None with a single row.
        high: The upper end.
        method: How the interval is computed: `student_t`, `student_t_of_ratio`, `wilson` or
            `student_t_of_paired_differences`.
    """

    value: float
    low: float | None = None
    high: float | None = None
    rows: int
    method: str


class EvaluatedModel(Response):
    """One model of an evaluation and its figures.

    Attributes:
        name: What the request calls it.
        model: Its catalog id.
        base_model: The base model on the engine; in a rehearsal, a stand-in.
        checkpoint: Path of the weights; None for a base model.
        step: Optimizer steps of the weights.
        renderer: Name of the chat format.
        rows: Number of rows with a result.
        loss: Loss per token of the rows' answers.
        reward: Mean reward of the rows.
        truncated: Completions that were cut at the token limit.
        unfinished: Completions whose reasoning never ended, and which are not scored.
        reward_errors: Completions on which a reward function of your own failed.
    """

    name: str
    model: str
    base_model: str
    rehearsal: bool = False
    checkpoint: str | None = None
    job_id: str | None = None
    step: int | None = None
    renderer: str = ""
    rows: int = 0
    loss: EvaluationFigure | None = None
    loss_tokens: int = 0
    reward: EvaluationFigure | None = None
    completions: int = 0
    truncated: int = 0
    unfinished: int = 0
    reward_errors: int = 0
    sampled_tokens: int = 0


class ChangedRow(Response):
    """A row whose value differs much between two models; `question` is what it asks."""

    row: int
    baseline: float
    value: float
    question: str | None = None
    baseline_completion: str | None = None
    completion: str | None = None


class ModelComparison(Response):
    """The comparison of a model with the first one, on the rows that both have.

    Attributes:
        model: Number of the model in `models`, from 0.
        baseline: Number of the first model.
        metric: `loss`, where lower is better, or `reward`, where higher is better.
        difference: The model's value minus the baseline's.
        wins: Rows on which the model is better.
        changed: The rows that differ most.
    """

    model: int
    baseline: int = 0
    metric: str
    difference: EvaluationFigure
    wins: int
    ties: int
    losses: int
    changed: list[ChangedRow] = Field(default_factory=list)


class EvaluationResult(Response):
    """The result of an evaluation.

    Attributes:
        rows: Number of rows that every model was to be evaluated on.
        confidence: The confidence of the intervals.
        models: The models, the baseline first.
        comparisons: Each model with the baseline, by each metric that both have.
    """

    job_id: str
    dataset: str
    split: str | None = None
    rows: int
    confidence: float = 0.95
    models: list[EvaluatedModel]
    comparisons: list[ModelComparison] = Field(default_factory=list)

    def __repr__(self) -> str:
        figures = "; ".join(
            f"{model.name}: {figure.value:.4g} {name}"
            for model in self.models
            for name, figure in (("loss", model.loss), ("reward", model.reward))
            if figure is not None
        )
        return f"<{type(self).__name__} of {self.rows} rows: {figures}>"


class EvaluatedRow(Response):
    """What one model got on one row; a completion is None where its reasoning never ended."""

    row: int
    model: str
    loss: float | None = None
    loss_tokens: int = 0
    reward: float | None = None
    rewards: list[float] = Field(default_factory=list)
    completions: list[str | None] = Field(default_factory=list)
    truncated: int = 0
    sampled_tokens: int = 0
