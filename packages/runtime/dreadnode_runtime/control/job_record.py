"""The job's record, as the API returns it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Job:
    """The fields of a job's record that the runtime reads.

    Attributes:
        model: Catalog id that the user chose.
        trained_model: The model that is trained; in a rehearsal, the stand-in.
        rehearse_steps: Steps after which a rehearsal ends; None for all.
        warnings: What the check of the job warned of, one sentence each.
        config: Settings, with every default filled in by the API.
        metrics: Metrics of earlier attempts.
        artifacts: Checkpoints and other results of earlier attempts.
    """

    id: str
    name: str | None
    trainer_type: str
    model: str
    trained_model: str
    rehearsal: bool
    config: dict[str, Any]
    metrics: dict[str, Any]
    artifacts: dict[str, Any]
    rehearse_steps: int | None = None
    warnings: Sequence[str] = ()

    @classmethod
    def from_record(cls, record: dict[str, Any]) -> "Job":
        """Return the job that the API describes with RECORD."""
        return cls(
            id=record["id"],
            name=record.get("name"),
            trainer_type=record["trainer_type"],
            model=record["model"],
            trained_model=record.get("trained_model") or record["model"],
            rehearsal=bool(record.get("rehearsal")),
            config=record["config"],
            metrics=record.get("metrics") or {},
            artifacts=record.get("artifacts") or {},
            rehearse_steps=record.get("rehearse_steps"),
            warnings=[
                each["message"] for each in (record.get("preflight") or {}).get("warnings") or ()
            ],
        )

    @property
    def model_description(self) -> str:
        """The model for messages; it always names a stand-in."""
        if not self.rehearsal:
            return self.model
        return f"the stand-in {self.trained_model} in place of {self.model}"
