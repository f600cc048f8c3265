"""A dataset's file to what is trained on, with a count of everything that was left out."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path

from dreadnode_runtime.data.counts import Counts
from dreadnode_runtime.data.normal_form import Conversation, Row, Unusable, with_system_prompt
from dreadnode_runtime.data.reading import read_conversation
from dreadnode_runtime.data.rendering import Rendering
from dreadnode_runtime.data.rows import read_rows, usable
from dreadnode_runtime.data.sequences import Example
from dreadnode_runtime.errors import JobFailed

AT_ONCE = 512
"""How many rows are rendered together: what they have in common is encoded once."""


def fitting(
    paths: Sequence[Path],
    rendering: Rendering,
    *,
    train_on: str,
    system_prompt: str | None = None,
) -> Rendering:
    """Return RENDERING with the variant of the format that can train on the rows of all PATHS."""

    def conversations() -> Iterator[Conversation]:
        for path in paths:
            for _, value in read_rows(path):
                with suppress(Unusable):
                    yield _said(value, system_prompt)

    try:
        return rendering.fitted(conversations(), train_on)
    except (ValueError, UnicodeDecodeError):
        # A line that cannot be read is named where the rows are counted.
        return rendering


def prepare(
    path: Path,
    rendering: Rendering,
    *,
    max_length: int,
    train_on: str,
    system_prompt: str | None = None,
    strict: bool = False,
    keep: Callable[[list[Example]], None],
) -> Counts:
    """Render every row of the JSONL file at PATH, hand the usable ones to KEEP, and count.

    Each call of KEEP gets one row's sequences.

    Raises:
        JobFailed: A line is not JSON, no row is left, or one is left out and STRICT forbids it; the
            sentence says which and why.
    """
    counts = Counts()
    waiting: list[tuple[int, Conversation]] = []

    def render() -> None:
        found = rendering.batch(waiting, max_length=max_length, train_on=train_on)
        for (row, conversation), made in zip(waiting, found, strict=True):
            if isinstance(made, Unusable):
                counts.drop(row, str(made))
                continue
            counts.usable += 1
            counts.read(conversation)
            counts.truncated += made.cut
            counts.tokens += sum(len(example.tokens) for example in made.examples)
            counts.trained_tokens += sum(int(each.trained.sum()) for each in made.examples)
            keep(made.examples)
        waiting.clear()

    try:
        for row, value in read_rows(path):
            counts.rows += 1
            try:
                waiting.append((row, _said(value, system_prompt)))
            except Unusable as unusable:
                counts.drop(row, str(unusable))
            if len(waiting) == AT_ONCE:
                render()
        render()
    except (ValueError, UnicodeDecodeError) as error:
        raise JobFailed(f"{error}; a dataset is one JSON object a line", code="data") from error
    if strict:
        counts.forbid()
    counts.refuse_if_unusable(counts.usable, nothing="None of the {rows} rows can be trained on")
    return counts


def _said(value: Row | Unusable, system_prompt: str | None) -> Conversation:
    return with_system_prompt(read_conversation(usable(value)), system_prompt)
