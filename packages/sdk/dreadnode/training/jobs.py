"""What the request for a training job and its responses hold."""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Any, NamedTuple

from pydantic import Field

from dreadnode.training.estimates import Estimate, JobWarning
from dreadnode.training.sft_request import SftConfig as SftConfig
from dreadnode.training.sft_request import SftRequest as SftRequest
from dreadnode.wire import Response

if TYPE_CHECKING:
    from matplotlib.axes import Axes

ENDED = frozenset({"completed", "failed", "cancelled"})
"""The statuses of a job that has ended."""


class Evaluation(NamedTuple):
    """One evaluation of a job.

    Attributes:
        step: Optimizer steps of the evaluated weights.
        metric: `loss`, where lower is better, or `reward`, where higher is better.
        value: The result.
    """

    step: int
    metric: str
    value: float


class Progress(Response):
    """The progress of a job, with the newest metrics."""

    step: int = 0
    steps: int | None = None
    tokens: int | None = None
    loss: float | None = None
    reward: float | None = None
    eval_loss: float | None = None
    eval_reward: float | None = None
    seconds_left: float | None = None


class ReadData(Response):
    """A split that a job reads: `role` is train, eval or trajectories."""

    role: str
    name: str
    version: str
    split: str
    rows: int
    sha256: str


class LengthBin(Response):
    """A bin of a histogram: rows whose number of tokens is from `least` to `most`."""

    least: int
    most: int
    rows: int


class Lengths(Response):
    """How many tokens rows have."""

    min: int
    median: int
    mean: float
    p95: int
    max: int
    bins: list[LengthBin] = Field(default_factory=list)


class Place(Response):
    """A row; `dataset` says of which dataset, where there are several."""

    row: int
    dataset: str | None = None


class Duplicate(Place):
    """A row that repeats an earlier one."""

    of: Place


class Duplicates(Response):
    """The number of rows that repeat an earlier one, and the first of them."""

    count: int
    rows: list[Duplicate] = Field(default_factory=list)


class SharedRows(Response):
    """The number of rows that are training data as well, and the numbers of the first."""

    count: int
    rows: list[int] = Field(default_factory=list)


class Rows(Response):
    """What the check found about rows.

    Attributes:
        dropped: Number of rows that are left out, by reason; `first_dropped` holds the numbers of
            the first rows.
        unread: Number of rows in which each field was not read.
        notes: Number of rows with each change or doubt of the reader.
        truncated: Number of rows that are cut at their end.
        shared: Of evaluation data, the rows that are training data as well.
    """

    rows: int
    usable: int
    dropped: dict[str, int] = Field(default_factory=dict)
    first_dropped: dict[str, list[int]] = Field(default_factory=dict)
    unread: dict[str, int] = Field(default_factory=dict)
    notes: dict[str, int] = Field(default_factory=dict)
    tokens: int | None = None
    truncated: int = 0
    lengths: Lengths | None = None
    duplicates: Duplicates | None = None
    shared: SharedRows | None = None


class Preflight(Rows):
    """What the check of the data found before the job was accepted.

    Attributes:
        evaluation: The same for the evaluation data, if there is any.
        renderer: The chat format that the rows are written in.
        format_notes: Why that format, and how it differs from the tokenizer's chat template.
        warnings: What is probably not meant, though the job can run.
        price: The estimate at the rates that were in force then; None if it is not known.
    """

    datasets: list[ReadData] = Field(default_factory=list)
    evaluation: Rows | None = None
    renderer: str | None = None
    format_notes: list[str] = Field(default_factory=list)
    warnings: list[JobWarning] = Field(default_factory=list)
    price: Estimate | None = None


class JobCapability(Response):
    """The capability of a job; `none` at `0.0.0` means that it has none."""

    name: str
    version: str


class JobUser(Response):
    """The user who submitted a job."""

    username: str
    email: str | None = None


class JobCost(Response):
    """The tokens that a job has used, and what they cost in US dollars.

    Attributes:
        paid: Whether the tokens are paid for: not in a rehearsal, nor on an engine of one's own.
        usd: The cost so far; None if a rate is not known.
        list_usd: The tokens at the job's rates, whether they are paid for or not.
        reason: Why there is no total.
        tokens: Tokens of all attempts by kind: prefill, cached_prefill, sample and train.
        rates: The rates in force when the job was submitted, per million tokens.
        earlier_usd: The cost of the jobs that this one retries.
        limit_usd: The cost at which the job stops, `earlier_usd` included.
    """

    paid: bool = False
    usd: Decimal | None = None
    list_usd: Decimal | None = None
    reason: str | None = None
    tokens: dict[str, int] = Field(default_factory=dict)
    rates: dict[str, Any] | None = None
    earlier_usd: Decimal = Decimal(0)
    limit_usd: Decimal | None = None


class RehearsalReport(Response):
    """What a rehearsal has shown so far, and what the whole job would take and cost.

    Attributes:
        steps: Steps of the rehearsal so far.
        metric: `loss` or `reward`.
        first: Its mean over the first quarter of the steps.
        last: Its mean over the last quarter.
        movement: `falling`, `rising` or `flat`.
        seconds_per_step: With the stand-in, on the server's engine.
        whole_steps: Steps of the whole job.
        whole_seconds: Time of the whole job at the same speed.
        whole_usd_at_least: The lowest price of the whole job, by the stand-in's tokenizer.
        whole_usd_at_most: The highest.
    """

    steps: int
    metric: str
    first: float
    last: float
    movement: str
    tokens_per_step: float
    seconds_per_step: float | None = None
    whole_steps: int | None = None
    whole_seconds: float | None = None
    whole_usd_at_least: Decimal | None = None
    whole_usd_at_most: Decimal | None = None


class TrainingJob(Response):
    """A training job.

    Attributes:
        status: queued, running, completed, failed or cancelled.
        phase: What a job that has not ended does now.
        phase_reason: Why it does that, if there is more to say.
        rehearsal: Whether it trains a stand-in instead of `model`.
        rehearse_steps: Steps after which a rehearsal ends.
        rehearsal_id: The rehearsal after which it starts.
        rehearsal_report: What a rehearsal has shown; None in a list of jobs.
        trained_model: The model that the engine trains; in a rehearsal, the stand-in.
        attempt: The number of starts; 0 before the first one.
        retry_of: The job that this one retries.
        start_step: Of a retry, the step of the checkpoint from which it resumes; 0 if it starts
            over.
        cost: The tokens so far, and what they cost.
        stopped_by: `budget` if the limit of its cost ended a completed job before its last step.
        error: Why it failed, as a sentence. `error_code` is a word for programs, and `error_log`
            has the last lines of its log.
        config: The submitted configuration with every default filled in.
    """

    id: str
    status: str
    trainer_type: str
    model: str
    created_at: datetime
    backend: str = "tinker"
    name: str | None = None
    capability: JobCapability | None = None
    rehearsal: bool = False
    rehearse_steps: int | None = None
    rehearsal_id: str | None = None
    rehearsal_report: RehearsalReport | None = None
    trained_model: str | None = None
    phase: str | None = None
    phase_reason: str | None = None
    attempt: int = 0
    retry_of: str | None = None
    start_step: int | None = None
    progress: Progress | None = None
    cost: JobCost = Field(default_factory=lambda: JobCost())
    stopped_by: str | None = None
    preflight: Preflight | None = None
    config: dict[str, Any] = Field(default_factory=dict)
    metrics: dict[str, Any] = Field(default_factory=dict)
    artifacts: dict[str, Any] = Field(default_factory=dict)
    tags: list[str] = Field(default_factory=list)
    project_ref: str | None = None
    run_ref: str | None = None
    error: str | None = None
    error_code: str | None = None
    error_log: list[str] = Field(default_factory=list)
    created_by: str | None = None
    created_by_user: JobUser | None = None
    started_at: datetime | None = None
    completed_at: datetime | None = None
    updated_at: datetime | None = None
    cancel_requested_at: datetime | None = None

    @property
    def has_ended(self) -> bool:
        """Whether it has completed, failed or was cancelled."""
        return self.status in ENDED

    @property
    def evaluations(self) -> list[Evaluation]:
        """The evaluations in order; empty in a list of jobs, whose metrics have no history."""
        steps = self.metrics.get("eval/steps")
        for metric in ("reward", "loss"):
            values = self.metrics.get(f"eval/{metric}_history")
            if isinstance(steps, list) and isinstance(values, list):
                pairs = zip(steps, values, strict=False)
                return [Evaluation(step, metric, value) for step, value in pairs]
        return []

    @property
    def better_evaluation(self) -> Evaluation | None:
        """The best evaluation, if an earlier one was better than the last."""
        found = self.evaluations
        if not found:
            return None
        sign = 1 if found[-1].metric == "reward" else -1
        best = max(found, key=lambda each: sign * each.value)
        return best if sign * best.value > sign * found[-1].value else None

    def metrics_frame(self) -> dict[str, list[Any]]:
        """Return the metric history as columns of one length, for instance for `pandas.DataFrame`.

        The first column is `step`; a step without a value of a metric has None there. A job of a
        list has no history.
        """
        from dreadnode.training.metric_series import metrics_frame

        return metrics_frame(self.metrics)

    def plot(self, metric: str | None = None, *, smooth: int = 1, axes: Axes | None = None) -> Axes:
        """Draw a metric with matplotlib, and return the axes.

        Args:
            metric: The metric; the loss or the reward with its evaluations if None.
            smooth: Draw the mean of this many values.
            axes: The axes to draw into; new ones of pyplot if None.
        """
        from dreadnode.training.plots import plot

        return plot(self, metric, smooth, axes)

    def __repr__(self) -> str:
        name = f" {self.name!r}" if self.name else ""
        rehearsal = " (rehearsal)" if self.rehearsal else ""
        return f"<{type(self).__name__} {self.id}{name}: {self.status}, {self.model}{rehearsal}>"


class TrainingJobPage(Response):
    """One page of jobs, newest first."""

    items: list[TrainingJob]
    total: int
    page: int
    page_size: int


class LogEntry(Response):
    """One line of a job's log; `cursor` is the position after it."""

    timestamp: datetime
    level: str
    message: str
    data: dict[str, Any] = Field(default_factory=dict)
    cursor: int = 0


class LogEntries(Response):
    """A job's log, oldest line first."""

    items: list[LogEntry]


class JobEvent(Response):
    """An event of a job: a step, a line of its log, a new phase or state.

    Attributes:
        id: Number of the event within the job, from 1.
        type: Kind of the event, for instance `step_complete`, `log`, `phase` or `status`.
        message: The text of the line, if the event is a line of the log.
        data: The facts, for instance `step`, `steps` and `metrics` of a step.
    """

    id: int
    type: str
    timestamp: datetime
    level: str = "info"
    message: str | None = None
    data: dict[str, Any] = Field(default_factory=dict)


class Artifacts(Response):
    """The artifacts of a job, by name."""

    artifacts: dict[str, Any]


class JobFile(Response):
    """One file that a job has stored."""

    path: str
    bytes: int
    sha256: str


class JobFiles(Response):
    """The files that a job has stored."""

    items: list[JobFile]
