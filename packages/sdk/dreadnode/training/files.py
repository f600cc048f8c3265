"""An export of what a job trained."""

from __future__ import annotations

from pydantic import Field

from dreadnode.wire import Response


class ExportedFile(Response):
    """A file of an export, by its name in the export's folder."""

    path: str
    bytes: int


class ExportResult(Response):
    """An export of what a job trained, on this machine.

    Attributes:
        largest_difference: Between the logits of the export and the engine's; None unchecked.
        adapter_effect: The largest difference that the adapter makes to the base model's logits.
    """

    folder: str
    format: str
    files: list[ExportedFile] = Field(default_factory=list)
    largest_difference: float | None = None
    adapter_effect: float | None = None
