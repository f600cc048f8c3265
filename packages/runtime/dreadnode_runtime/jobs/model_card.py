"""The model card (README.md) of an adapter: what was trained, how, on which data."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from dreadnode_runtime.backend.adapter_layout import without_variant
from dreadnode_runtime.control.api import Dataset
from dreadnode_runtime.control.job_record import Job
from dreadnode_runtime.data.rendering import Rendering
from dreadnode_runtime.jobs.cost import Ledger
from dreadnode_runtime.jobs.outcome import Results


@dataclass(frozen=True, slots=True)
class Card:
    """The content of a model card.

    Attributes:
        rendering: The chat format that the rows were written in.
        cost: Tokens and cost of all attempts.
        step: Step of the weights; None for the last step.
        base_dtype: Data type of the base weights in training, if the engine says so.
        adapter_notes: What PEFT would not load of the adapter.
    """

    job: Job
    rendering: Rendering
    results: Results
    cost: Ledger
    step: int | None = None
    base_dtype: str | None = None
    adapter_notes: Sequence[str] = ()

    def text(self) -> str:
        """Return the card as Markdown, with the front matter for model hubs."""
        tags = ["lora", self.job.trainer_type, *(["rehearsal"] if self.job.rehearsal else [])]
        parts = [
            "---",
            f"base_model: {without_variant(self.job.trained_model)}",
            "library_name: peft",
            "tags:",
            *(f"- {tag}" for tag in tags),
            "---",
            "",
            f"# {self._title()}",
            "",
            *self._warning(),
            f"A LoRA adapter (PEFT) of `{self.job.trained_model}`, trained by job `{self.job.id}`.",
            "",
            *_table("Training", self._training()),
            *_notes("Warnings before the start", self.job.warnings),
            *_notes("Adapter", self.adapter_notes),
            *_notes("Chat format", self.rendering.notes),
            *_table("Results", self._results()),
            *_table("Configuration", self.job.config),
        ]
        return "\n".join(parts) + "\n"

    def _title(self) -> str:
        title = self.job.name or f"{self.job.model} on {self.results.datasets[0].name}"
        return f"REHEARSAL: {title}" if self.job.rehearsal else title

    def _warning(self) -> list[str]:
        if not self.job.rehearsal:
            return []
        model, stand_in = self.job.model, self.job.trained_model
        return [
            f"> **This is a rehearsal.** It was trained on the stand-in `{stand_in}`,",
            f"> **not on `{model}`**. It does not work with `{model}` and says nothing",
            "> about that model's quality. It shows that data, settings and training loop work.",
            "",
        ]

    def _training(self) -> dict[str, Any]:
        counts, evaluated = self.results.counts, self.results.eval_dataset
        return {
            "Model of the job": self.job.model,
            "Trained model": self.job.trained_model,
            "Data type of the base weights": self.base_dtype,
            **{_numbered("Data", n): _data(each) for n, each in enumerate(self.results.datasets)},
            "Evaluation data": None if evaluated is None else _data(evaluated),
            "Rows": f"{counts.usable} of {counts.rows}, {counts.truncated} truncated",
            "Fields that were not read": "; ".join(counts.unread_fields()) or None,
            "Format": self.rendering.name,
            "Format written by": self.rendering.source,
            "Optimizer steps": self.results.metrics.get("train/steps"),
            "Weights of": None if self.step is None else f"step {self.step}, the best evaluation",
            "Tokens processed": self.results.metrics.get("train/num_tokens_processed"),
            "Rollouts": self.results.metrics.get("train/num_rollouts"),
            **self._cost(),
        }

    def _cost(self) -> dict[str, str]:
        """Return the cost of all attempts, with evaluations and repeated steps."""
        if not any(self.cost.tokens.values()):
            return {}
        title = "Cost at hosted Tinker's prices"
        if self.job.rehearsal:
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
            values = [value for value in self.results.metrics.get(name) or [] if value is not None]
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
