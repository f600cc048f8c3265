"""The data of a supervised job: its rows to sequences, as the job's `format` says."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from dreadnode_runtime.data.counts import Counts
from dreadnode_runtime.data.plain_text import prepare_text
from dreadnode_runtime.data.prepare import fitting, prepare
from dreadnode_runtime.data.rendering import Rendering
from dreadnode_runtime.data.sequences import Example
from dreadnode_runtime.errors import JobFailed
from dreadnode_runtime.jobs.config import SftConfig
from dreadnode_runtime.jobs.row_files import RowFile

Keep = Callable[[list[Example]], None]


def fitted(files: Sequence[RowFile], rendering: Rendering, config: SftConfig) -> Rendering:
    """Return RENDERING with the variant of the chat format that can train on all rows of FILES."""
    if config.format != "conversations":
        return rendering
    paths = [file.path for file in files]
    return fitting(paths, rendering, train_on=config.train_on, system_prompt=config.system_prompt)


def prepare_file(file: RowFile, rendering: Rendering, config: SftConfig, keep: Keep) -> Counts:
    """Hand the sequences of every usable row of FILE to KEEP, and count.

    Raises:
        JobFailed: As `prepare_rows`; the sentence names the dataset, where there are several.
    """
    if not file.name:
        return prepare_rows(file.path, rendering, config, keep)

    def keep_named(examples: list[Example]) -> None:
        keep([replace(example, dataset=file.name) for example in examples])

    try:
        return prepare_rows(file.path, rendering, config, keep_named)
    except JobFailed as refusal:
        raise JobFailed(f"{file.name}: {refusal}", code=refusal.code) from refusal


def prepare_rows(path: Path, rendering: Rendering, config: SftConfig, keep: Keep) -> Counts:
    """Hand the sequences of every usable row at PATH to KEEP, and count.

    Raises:
        JobFailed: A line is not JSON, no row is left, or `strict` forbids what is lost.
    """
    if config.format == "conversations":
        return prepare(
            path,
            rendering,
            max_length=config.max_sequence_length,
            train_on=config.train_on,
            system_prompt=config.system_prompt,
            strict=config.strict,
            keep=keep,
        )
    return prepare_text(
        path,
        rendering,
        max_length=config.max_sequence_length,
        rendered=config.format == "rendered",
        packed=config.packed,
        strict=config.strict,
        keep=keep,
    )
