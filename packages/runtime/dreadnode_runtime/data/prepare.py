"""A dataset's file to what is trained on, with a count of everything that was left out."""

from collections.abc import Callable
from pathlib import Path

from dreadnode_runtime.data.counts import Counts
from dreadnode_runtime.data.normal_form import Unusable, with_system_prompt
from dreadnode_runtime.data.reading import conversation, encodable
from dreadnode_runtime.data.rendering import Example, Rendering
from dreadnode_runtime.data.rows import read_rows
from dreadnode_runtime.errors import JobFailed


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
    try:
        for row, value in read_rows(path):
            counts.rows += 1
            try:
                said = with_system_prompt(conversation(encodable(value)), system_prompt)
                examples, cut = rendering.examples(
                    said, row=row, max_length=max_length, train_on=train_on
                )
            except Unusable as unusable:
                counts.drop(row, str(unusable))
                continue
            counts.usable += 1
            counts.read(said)
            counts.truncated += cut
            counts.tokens += sum(len(example.tokens) for example in examples)
            counts.trained_tokens += sum(int(example.trained.sum()) for example in examples)
            keep(examples)
    except (ValueError, UnicodeDecodeError) as error:
        raise JobFailed(f"{error}; a dataset is one JSON object a line", code="data") from error
    if strict:
        counts.forbid()
    counts.refuse_if_unusable(counts.usable, nothing="None of the {rows} rows can be trained on")
    return counts
