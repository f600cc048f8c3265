"""The README.md that goes with an adapter: where it comes from, so that it is not mistaken."""

from dataclasses import dataclass
from typing import Any

from dreadnode_runtime.prepare import Counts
from dreadnode_runtime.service import Dataset


@dataclass(frozen=True, slots=True)
class Card:
    """What a model card says.

    Attributes:
        model: Catalog id that the job names.
        trained_model: What was really trained; in a rehearsal, the stand-in.
        rehearsal: Whether these two differ on purpose.
        renderer: Name of the chat format that it was trained in.
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
    dataset: Dataset
    counts: Counts
    config: dict[str, Any]
    metrics: dict[str, Any]
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
            *_table("Configuration", self.config),
        ]
        return "\n".join(parts) + "\n"

    def _title(self) -> str:
        title = self.name or f"{self.model} on {self.dataset.name}"
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
        losses = [loss for loss in self.metrics.get("train/loss", []) if loss is not None]
        return {
            "Model of the job": self.model,
            "Trained model": self.trained_model,
            "Data": self._data(),
            "Rows": f"{self.counts.usable} of {self.counts.rows}, {self.counts.truncated} cut off",
            "Tokens processed": self.metrics.get("train/num_tokens_processed"),
            "Format": self.renderer,
            "Optimizer steps": self.metrics.get("train/steps"),
            "Weights of": None if self.step is None else f"step {self.step}, the best evaluation",
            "Loss": f"{losses[0]:.4f} at first, {losses[-1]:.4f} at last" if losses else None,
        }

    def _data(self) -> str:
        split = f", split {self.dataset.split}" if self.dataset.split else ""
        return f"{self.dataset.name}{split}, sha256 {self.dataset.sha256}"


def _table(heading: str, values: dict[str, Any]) -> list[str]:
    said = {key: value for key, value in values.items() if value not in (None, [], {})}
    rows = [f"| {key} | {_cell(value)} |" for key, value in said.items()]
    return [f"## {heading}", "", "| | |", "| --- | --- |", *rows, ""]


def _cell(value: Any) -> str:
    if isinstance(value, dict) and set(value) == {"name", "version"}:
        value = f"{value['name']}@{value['version']}"
    return " ".join(str(value).replace("|", "\\|").split())
