"""The model card (README.md) of an adapter: what was trained, how, on which data."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from dreadnode_runtime.backend.adapter_layout import without_variant
from dreadnode_runtime.control.api import Dataset
from dreadnode_runtime.data.counts import Counts
from dreadnode_runtime.jobs.cost import Ledger


@dataclass(frozen=True, slots=True)
class Card:
    """The content of a model card.

    Attributes:
        model: Catalog id that the job names.
        trained_model: The model that was trained; in a rehearsal, the stand-in.
        rehearsal: Whether the job was a rehearsal.
        renderer: Name of the renderer, that is the chat format.
        writer: The source of that format: a chat template, or a renderer.
        format_notes: Why that format, and how it differs from the tokenizer's chat template.
        datasets: Training data.
        eval_dataset: Evaluation data, if any.
        counts: Row counts of the training data.
        cost: Tokens and cost of all attempts.
        config: The job's settings, including defaults.
        metrics: The job's final metrics.
        warnings: What the check of the job warned of.
        step: Step of the weights; None for the last step.
        base_dtype: Data type of the base weights in training, if the engine says so.
        adapter_notes: What PEFT would not load of the adapter.
    """

    job_id: str
    name: str | None
    trainer_type: str
    model: str
    trained_model: str
    rehearsal: bool
    renderer: str
    datasets: Sequence[Dataset]
    eval_dataset: Dataset | None
    counts: Counts
    cost: Ledger
    config: dict[str, Any]
    metrics: dict[str, Any]
    writer: str | None = None
    format_notes: Sequence[str] = ()
    warnings: Sequence[str] = ()
    step: int | None = None
    base_dtype: str | None = None
    adapter_notes: Sequence[str] = ()

    def text(self) -> str:
        """Return the card as Markdown, with the front matter for model hubs."""
        tags = ["lora", self.trainer_type, *(["rehearsal"] if self.rehearsal else [])]
        parts = [
            "---",
            f"base_model: {without_variant(self.trained_model)}",
            "library_name: peft",
            "tags:",
            *(f"- {tag}" for tag in tags),
            "---",
            "",
            f"# {self._title()}",
            "",
            *self._warning(),
            f"A LoRA adapter (PEFT) of `{self.trained_model}`, trained by job `{self.job_id}`.",
            "",
            *_table("Training", self._training()),
            *_notes("Warnings before the start", self.warnings),
            *_notes("Adapter", self.adapter_notes),
            *_notes("Chat format", self.format_notes),
            *_table("Results", self._results()),
            *_table("Configuration", self.config),
        ]
        return "\n".join(parts) + "\n"

    def _title(self) -> str:
        title = self.name or f"{self.model} on {self.datasets[0].name}"
        return f"REHEARSAL: {title}" if self.rehearsal else title

    def _warning(self) -> list[str]:
        if not self.rehearsal:
            return []
        return [
            f"> **This is a rehearsal.** It was trained on the stand-in `{self.trained_model}`,",
            f"> **not on `{self.model}`**. It does not work with `{self.model}` and says nothing",
            "> about that model's quality. It shows that data, settings and training loop work.",
            "",
        ]

    def _training(self) -> dict[str, Any]:
        counts = self.counts
        return {
            "Model of the job": self.model,
            "Trained model": self.trained_model,
            "Data type of the base weights": self.base_dtype,
            **{_numbered("Data", n): _data(each) for n, each in enumerate(self.datasets)},
            "Evaluation data": None if self.eval_dataset is None else _data(self.eval_dataset),
            "Rows": f"{counts.usable} of {counts.rows}, {counts.truncated} truncated",
            "Fields that were not read": "; ".join(counts.unread_fields()) or None,
            "Format": self.renderer,
            "Format written by": self.writer,
            "Optimizer steps": self.metrics.get("train/steps"),
            "Weights of": None if self.step is None else f"step {self.step}, the best evaluation",
            "Tokens processed": self.metrics.get("train/num_tokens_processed"),
            "Rollouts": self.metrics.get("train/num_rollouts"),
            **self._cost(),
        }

    def _cost(self) -> dict[str, str]:
        """Return the cost of all attempts, with evaluations and repeated steps."""
        if not any(self.cost.tokens.values()):
            return {}
        title = "Cost at hosted Tinker's prices"
        if self.rehearsal:
            return {f"{title} of a job with these tokens": self.cost.text()}
        return {title: self.cost.text()}

    def _results(self) -> dict[str, Any]:
        """Return the first, the last and (of evaluations) the best value of each metric."""
        series = {
            "Loss": ("train/loss", min),
            "Evaluation loss": ("eval/loss_history", min),
            "Reward": ("train/reward", max),
            "Evaluation reward": ("eval/reward_history", max),
            "KL of sampler and trainer": ("train/kl_sampler_trainer", min),
            "Entropy": ("train/entropy", max),
        }
        results = {}
        for title, (name, best) in series.items():
            values = [value for value in self.metrics.get(name) or [] if value is not None]
            if values:
                results[title] = f"{values[0]:.4f} first, {values[-1]:.4f} last"
                if name.startswith("eval/"):
                    results[title] += f", {best(values):.4f} best"
        return results


def _notes(heading: str, notes: Sequence[str]) -> list[str]:
    if not notes:
        return []
    return [f"## {heading}", "", *(f"- {note}" for note in notes), ""]


def _data(dataset: Dataset) -> str:
    split = "" if dataset.split is None else f", split {dataset.split}"
    return f"{dataset.name}{split}, sha256 {dataset.sha256}"


def _numbered(title: str, index: int) -> str:
    return title if index == 0 else f"{title} {index + 1}"


def _table(heading: str, values: dict[str, Any]) -> list[str]:
    shown = {key: value for key, value in values.items() if value not in (None, [], {})}
    if not shown:
        return []
    rows = [f"| {key} | {_cell(value)} |" for key, value in shown.items()]
    return [f"## {heading}", "", "| | |", "| --- | --- |", *rows, ""]


def _cell(value: Any) -> str:
    if isinstance(value, dict) and set(value) == {"name", "version"}:
        value = f"{value['name']}@{value['version']}"
    return " ".join(str(value).replace("|", "\\|").split())
