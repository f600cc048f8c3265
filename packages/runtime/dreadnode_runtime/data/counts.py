"""What became of a dataset's rows: used, left out by reason, and fields that were not read."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from dreadnode_runtime.data.normal_form import Conversation
from dreadnode_runtime.data.plain_rows import Document
from dreadnode_runtime.errors import JobFailed

NAMED = 5
"""How many rows of each reason are named."""
REASONS = 50
"""How many reasons, or fields, are counted separately; the rest are counted together."""
OTHER = "other reasons"
OTHER_FIELDS = "other fields"


@dataclass(slots=True)
class Counts:
    """What became of a dataset's rows.

    Attributes:
        rows: All of them.
        usable: Those that are trained on.
        dropped: How many were left out, by reason.
        first_dropped: Numbers of the first few rows of each reason, from 1.
        unread: In how many rows each field was not read.
        notes: In how many rows the reader changed or doubted something, by what.
        tokens: Of all sequences.
        trained_tokens: Those that carry loss.
        truncated: Rows that were cut at their end.
        sequences: What a step takes `batch_size` of, where that is not the usable rows: packed.
    """

    rows: int = 0
    usable: int = 0
    dropped: dict[str, int] = field(default_factory=dict)
    first_dropped: dict[str, list[int]] = field(default_factory=dict)
    unread: dict[str, int] = field(default_factory=dict)
    notes: dict[str, int] = field(default_factory=dict)
    tokens: int = 0
    trained_tokens: int = 0
    truncated: int = 0
    sequences: int = 0

    def drop(self, row: int, reason: str) -> None:
        """Count ROW as left out for REASON."""
        reason = _counted(self.dropped, reason, 1, OTHER)
        named = self.first_dropped.setdefault(reason, [])
        if len(named) < NAMED:
            named.append(row)

    def read(self, parsed: Conversation | Document) -> None:
        """Count the unread fields and the notes of the row that was PARSED."""
        for name in parsed.unread:
            _counted(self.unread, name, 1, OTHER_FIELDS)
        for note in getattr(parsed, "notes", ()):
            _counted(self.notes, note, 1, OTHER)

    def add(self, other: "Counts") -> None:
        """Count what became of another dataset's rows too."""
        for name in ("rows", "usable", "tokens", "trained_tokens", "truncated", "sequences"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        for reason, count in other.dropped.items():
            kept = _counted(self.dropped, reason, count, OTHER)
            named = [*self.first_dropped.get(kept, []), *other.first_dropped[reason]]
            self.first_dropped[kept] = named[:NAMED]
        for name, count in other.unread.items():
            _counted(self.unread, name, count, OTHER_FIELDS)
        for note, count in other.notes.items():
            _counted(self.notes, note, count, OTHER)

    def forbid(self) -> None:
        """Return if nothing was lost of any row, as `strict` demands.

        Raises:
            JobFailed: A row is left out, or a field was not read.
        """
        if self.dropped:
            reason, count = next(iter(self.dropped.items()))
            several = f"; {count} of them" if len(self.dropped) > 1 else ""
            raise JobFailed(
                f"`strict` forbids leaving rows out, and {sum(self.dropped.values())} of "
                f"{self.rows} cannot be used{several}: {reason} "
                f"({_rows(self.first_dropped[reason], count)})",
                code="data",
            )
        if self.unread:
            raise JobFailed(
                f"`strict` forbids fields that are not read: {'; '.join(self.unread_fields())}; "
                "remove them from the rows, or leave `strict` out",
                code="data",
            )

    def refuse_if_unusable(self, left: int, *, nothing: str) -> None:
        """Return if there is something to train on.

        Args:
            left: How much of it there is.
            nothing: Begins the refusal, with `{rows}` in it.

        Raises:
            JobFailed: There is nothing.
        """
        if not self.rows:
            raise JobFailed("The dataset has no rows", code="data")
        if not left:
            reason, count = max(self.dropped.items(), key=lambda item: item[1])
            raise JobFailed(
                f"{nothing.format(rows=self.rows)}; {count} of them: {reason} "
                f"({_rows(self.first_dropped[reason], count)})",
                code="data",
            )

    def warnings(self) -> list[str]:
        """Return one sentence for each reason why something of the rows is lost or doubtful."""
        return [
            *(
                f"{count} of {self.rows} rows left out: {reason} "
                f"({_rows(self.first_dropped[reason], count)})"
                for reason, count in self.dropped.items()
            ),
            *(f"not read: {line}" for line in self.unread_fields()),
            *(f"{note}, in {count} of {self.rows} rows" for note, count in self.notes.items()),
        ]

    def unread_fields(self) -> list[str]:
        """Return the fields that were not read with their rows, those of equal counts together."""
        by_count: dict[int, list[str]] = {}
        for name, count in self.unread.items():
            by_count.setdefault(count, []).append(name)
        return [
            f"{', '.join(names)}, in {count} of {self.rows} rows"
            for count, names in sorted(by_count.items(), reverse=True)
        ]


def as_report(counts: Counts) -> Mapping[str, object]:
    """Return COUNTS as a check reports them."""
    names: Iterable[str] = ("rows", "usable", "dropped", "first_dropped", "unread", "notes")
    return {name: getattr(counts, name) for name in (*names, "tokens", "truncated")}


def _counted(counter: dict[str, int], name: str, count: int, other: str) -> str:
    """Add COUNT under NAME, or under OTHER when there are too many names; return which."""
    if name not in counter and len(counter) >= REASONS:
        name = other
    counter[name] = counter.get(name, 0) + count
    return name


def _rows(named: list[int], count: int) -> str:
    """Name the rows, saying so when there are more of them."""
    listed = ", ".join(str(row) for row in named)
    return f"row{'s' if count > 1 else ''} {listed}{' …' if count > len(named) else ''}"
