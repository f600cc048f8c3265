"""A dataset's file to what is trained on, with a count of everything that was left out."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from dreadnode_runtime.data.normal_form import Unusable, with_system_prompt
from dreadnode_runtime.data.reading import conversation, encodable
from dreadnode_runtime.data.rendering import Example, Rendering
from dreadnode_runtime.data.rows import read_rows
from dreadnode_runtime.errors import JobFailed

NAMED = 5
"""How many rows of each reason are named."""


@dataclass(slots=True)
class Counts:
    """What became of a dataset's rows.

    Attributes:
        rows: All of them.
        usable: Those that are trained on.
        dropped: How many were left out, by reason.
        first_dropped: Numbers of the first few rows of each reason, from 1.
        tokens: Of all sequences.
        trained_tokens: Those that carry loss.
        truncated: Rows that were cut at their end.
    """

    rows: int = 0
    usable: int = 0
    dropped: dict[str, int] = field(default_factory=dict)
    first_dropped: dict[str, list[int]] = field(default_factory=dict)
    tokens: int = 0
    trained_tokens: int = 0
    truncated: int = 0

    def drop(self, row: int, reason: str) -> None:
        """Count ROW as left out for REASON."""
        self.dropped[reason] = self.dropped.get(reason, 0) + 1
        named = self.first_dropped.setdefault(reason, [])
        if len(named) < NAMED:
            named.append(row)

    def add(self, other: "Counts") -> None:
        """Count what became of another dataset's rows too."""
        for name in ("rows", "usable", "tokens", "trained_tokens", "truncated"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        for reason, count in other.dropped.items():
            self.dropped[reason] = self.dropped.get(reason, 0) + count
            named = [*self.first_dropped.get(reason, []), *other.first_dropped[reason]]
            self.first_dropped[reason] = named[:NAMED]

    def forbidden(self) -> str:
        """Say that `strict` forbids leaving rows out, naming those of the first reason."""
        reason, count = next(iter(self.dropped.items()))
        several = f"; {count} of them" if len(self.dropped) > 1 else ""
        return (
            f"`strict` forbids leaving rows out, and {sum(self.dropped.values())} of {self.rows} "
            f"cannot be used{several}: {reason} ({_rows(self.first_dropped[reason], count)})"
        )

    def warnings(self) -> list[str]:
        """Return one sentence for each reason why rows were left out."""
        return [
            f"{count} of {self.rows} rows left out: {reason} "
            f"({_rows(self.first_dropped[reason], count)})"
            for reason, count in self.dropped.items()
        ]


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
            counts.truncated += cut
            counts.tokens += sum(len(example.tokens) for example in examples)
            counts.trained_tokens += sum(int(example.trained.sum()) for example in examples)
            keep(examples)
    except (ValueError, UnicodeDecodeError) as error:
        raise JobFailed(f"{error}; a dataset is one JSON object a line", code="data") from error
    if not counts.rows:
        raise JobFailed("The dataset has no rows", code="data")
    if strict and counts.dropped:
        raise JobFailed(counts.forbidden(), code="data")
    if not counts.usable:
        reason, count = max(counts.dropped.items(), key=lambda item: item[1])
        raise JobFailed(
            f"None of the {counts.rows} rows can be trained on; {count} of them: {reason} "
            f"({_rows(counts.first_dropped[reason], count)})",
            code="data",
        )
    return counts


def _rows(named: list[int], count: int) -> str:
    """Name the rows, saying so when there are more of them."""
    listed = ", ".join(str(row) for row in named)
    return f"row{'s' if count > 1 else ''} {listed}{' …' if count > len(named) else ''}"
