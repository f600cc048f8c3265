"""The README.md that goes with an adapter: where it comes from, so that it is not mistaken."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from dreadnode_runtime.control.api import Dataset
from dreadnode_runtime.data.counts import Counts
from dreadnode_runtime.jobs.cost import list_cost


@dataclass(frozen=True, slots=True)
class Card:
    """What a model card says.

    Attributes:
        model: Catalog id that the job names.
        trained_model: What was really trained; in a rehearsal, the stand-in.
        rehearsal: Whether these two differ on purpose.
        renderer: Name of the chat format that it was trained in.
        writer: Who writes that format.
        format_notes: Why that format, and how it differs from the tokenizer's chat template.
        datasets: What it was trained on.
        eval_dataset: What it was evaluated on.
        config: The job's settings, defaults included.
        metrics: The job's final metrics.
        step: Whose weights these are, when not the last one's.
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
    config: dict[str, Any]
    metrics: dict[str, Any]
    writer: str | None = None
    format_notes: Sequence[str] = ()
    step: int | None = None

    def text(self) -> str:
        """Return the card as Markdown, with the front matter that model hubs read."""
        tags = ["lora", self.trainer_type, *(["rehearsal"] if self.rehearsal else [])]
        parts = [
            "---",
            f"base_model: {self.trained_model}",
            "library_name: peft",
            "tags:",
            *(f"- {tag}" for tag in tags),
            "---",
            "",
            f"# {self._title()}",
            "",
            *self._warning(),
            f"A LoRA adapter (PEFT) of `{self.trained_model}`, made by job `{self.job_id}`.",
            "",
            *_table("Training", self._training()),
            *_notes(self.format_notes),
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
            f"> **not on `{self.model}`**. It does not work with `{self.model}`, and says nothing",
            "> about how good that model would be. It shows that data, config and loop work.",
            "",
        ]

    def _training(self) -> dict[str, Any]:
        cost = None if self.rehearsal else list_cost(self.model, self.metrics)
        return {
            "Model of the job": self.model,
            "Trained model": self.trained_model,
            **{_numbered("Data", n): _data(each) for n, each in enumerate(self.datasets)},
            "Evaluation data": None if self.eval_dataset is None else _data(self.eval_dataset),
            "Rows": f"{self.counts.usable} of {self.counts.rows}, {self.counts.truncated} cut off",
            "Fields that were not read": "; ".join(self.counts.unread_fields()) or None,
            "Format": self.renderer,
            "Format written by": self.writer,
            "Optimizer steps": self.metrics.get("train/steps"),
            "Weights of": None if self.step is None else f"step {self.step}, the best evaluation",
            "Tokens processed": self.metrics.get("train/num_tokens_processed"),
            "Rollouts": self.metrics.get("train/num_rollouts"),
            "Cost of the steps at hosted Tinker's list prices": None
            if cost is None
            else cost.text(),
        }

    def _results(self) -> dict[str, Any]:
        """Return each series' first, last and best value, where there is one."""
        series = {
            "Loss": ("train/loss", min),
            "Loss on the evaluation data": ("eval/loss_history", min),
            "Reward": ("train/reward", max),
            "Reward on the evaluation data": ("eval/reward_history", max),
            "KL of sampler and trainer": ("train/kl_sampler_trainer", min),
            "Entropy": ("train/entropy", max),
        }
        said = {}
        for title, (name, best) in series.items():
            values = [value for value in self.metrics.get(name) or [] if value is not None]
            if values:
                said[title] = f"{values[0]:.4f} at first, {values[-1]:.4f} at last"
                if name.startswith("eval/"):
                    said[title] += f", {best(values):.4f} at best"
        return said


def _notes(notes: Sequence[str]) -> list[str]:
    if not notes:
        return []
    return ["## Chat format", "", *(f"- {note}" for note in notes), ""]


def _data(dataset: Dataset) -> str:
    split = "" if dataset.split is None else f", split {dataset.split}"
    return f"{dataset.name}{split}, sha256 {dataset.sha256}"


def _numbered(title: str, index: int) -> str:
    return title if index == 0 else f"{title} {index + 1}"


def _table(heading: str, values: dict[str, Any]) -> list[str]:
    said = {key: value for key, value in values.items() if value not in (None, [], {})}
    if not said:
        return []
    rows = [f"| {key} | {_cell(value)} |" for key, value in said.items()]
    return [f"## {heading}", "", "| | |", "| --- | --- |", *rows, ""]


def _cell(value: Any) -> str:
    if isinstance(value, dict) and set(value) == {"name", "version"}:
        value = f"{value['name']}@{value['version']}"
    return " ".join(str(value).replace("|", "\\|").split())
