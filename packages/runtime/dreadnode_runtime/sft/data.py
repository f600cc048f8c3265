"""The data of a supervised job: its rows to sequences, as the job's `format` says."""

from collections.abc import Callable
from pathlib import Path

from dreadnode_runtime.data.counts import Counts
from dreadnode_runtime.data.plain_text import prepare_text
from dreadnode_runtime.data.prepare import fitting, prepare
from dreadnode_runtime.data.rendering import Rendering
from dreadnode_runtime.data.sequences import Example
from dreadnode_runtime.jobs.config import SftConfig


def fitted(path: Path, rendering: Rendering, config: SftConfig) -> Rendering:
    """Return RENDERING with the variant of the chat format that can train on the rows at PATH."""
    if config.format != "conversations":
        return rendering
    return fitting(path, rendering, train_on=config.train_on, system_prompt=config.system_prompt)


def prepare_rows(
    path: Path, rendering: Rendering, config: SftConfig, keep: Callable[[list[Example]], None]
) -> Counts:
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
