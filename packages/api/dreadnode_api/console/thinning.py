"""Long metric histories, thinned so that their minima, maxima and gaps stay visible."""

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence
from math import isfinite
from typing import Any

BUCKETS = 256
"""How many parts of the axis a thinned series has; each keeps at most its lowest, its highest and
one missing value."""
COLLECTED = 8
"""How many points for each bucket a series collects before it is thinned."""
AXES = ("steps", "eval/steps")

Value = float | None


class Series:
    """One metric over steps, of which a bounded number of points is kept."""

    def __init__(self, buckets: int = BUCKETS) -> None:
        self._buckets = buckets
        self._capacity = COLLECTED * buckets
        self.steps: list[float] = []
        self.values: list[Value] = []

    def extend(self, steps: Sequence[float], values: Sequence[Value]) -> None:
        """Add points whose steps do not fall, nor fall behind those that are there."""
        self.steps += steps
        self.values += values
        if len(self.steps) > self._capacity:
            self.steps, self.values = thin(self.steps, self.values, self._buckets)

    def points(self) -> tuple[list[float], list[Value]]:
        """Return the thinned points."""
        return thin(self.steps, self.values, self._buckets)


def thin(steps: list[float], values: list[Value], buckets: int) -> tuple[list[float], list[Value]]:
    """Return the lowest, the highest and one missing value of each of BUCKETS parts of the axis.

    The first and the last point are always kept. A short series is returned as it is.
    """
    if len(steps) <= 2 * buckets:
        return steps, values
    first, width = steps[0], (steps[-1] - steps[0]) / buckets
    kept: set[int] = {0, len(steps) - 1}
    start = 0
    for bucket in range(1, buckets + 1):
        last = bucket == buckets
        end = len(steps) if last else bisect_right(steps, first + width * bucket, lo=start)
        if end > start:
            kept |= _extremes(values, start, end)
        start = end
    order = sorted(kept)
    return [steps[at] for at in order], [values[at] for at in order]


def _extremes(values: list[Value], start: int, end: int) -> set[int]:
    """Return where VALUES from START to END are lowest, highest and missing."""
    part = values[start:end]
    known = [value for value in part if value is not None]
    if not known:
        return {start}
    found = {start + part.index(min(known)), start + part.index(max(known))}
    if len(known) < len(part):
        found.add(start + part.index(None))
    return found


class MetricHistory:
    """Every metric of a job as a thinned series.

    Args:
        buckets: How fine the series are.
        first: The first step to keep.
        last: The last step to keep.
    """

    def __init__(
        self,
        buckets: int = BUCKETS,
        *,
        first: float = float("-inf"),
        last: float = float("inf"),
    ) -> None:
        self._buckets = buckets
        self._first, self._last = first, last
        self.series: dict[str, Series] = {}

    def add(self, lists: Mapping[str, Any]) -> dict[str, tuple[list[float], list[Value]]]:
        """Add the lists of one event, and return the points that they held."""
        added = {}
        for name, raw in lists.items():
            if name in AXES or not isinstance(raw, list) or _is_alias(name, lists):
                continue
            values = [_value(each) for each in raw]
            if raw and all(each is None for each in values) and name not in self.series:
                continue  # Strings.
            series = self.series.setdefault(name, Series(self._buckets))
            steps = _axis(lists, name, len(values), series)
            start, end = bisect_left(steps, self._first), bisect_right(steps, self._last)
            if (start, end) != (0, len(steps)):
                steps, values = steps[start:end], values[start:end]
            series.extend(steps, values)
            added[name] = (steps, values)
        return added

    def to_json(self) -> dict[str, Any]:
        """Return the series by name, each as its steps and its values."""
        return {name: list(series.points()) for name, series in self.series.items()}


def joined_lists(events: Iterable[Mapping[str, Any]]) -> Iterator[dict[str, list[Any]]]:
    """Yield the lists of events, joined where neighbors have the same metrics.

    A long history has many events of one step each, and adding each by itself takes longer.
    """
    joined: dict[str, list[Any]] = {}
    is_even = False
    for lists in events:
        was_even, is_even = is_even, len({len(each) for each in lists.values()}) == 1
        if lists.keys() != joined.keys() or not (was_even and is_even):
            if joined:
                yield joined
            joined = {name: [] for name in lists}
        for name, values in lists.items():
            joined[name] += values
    if joined:
        yield joined


def _is_alias(name: str, lists: Mapping[str, Any]) -> bool:
    """Return whether a metric is there under its newer name too, as `train_loss` is."""
    return "/" not in name and (name.replace("_", "/", 1) in lists or f"train/{name}" in lists)


def _axis(lists: Mapping[str, Any], name: str, length: int, series: Series) -> list[float]:
    """Return the steps of the values of a metric: its own axis, or one step after the other."""
    axis = lists.get("eval/steps" if name.startswith("eval/") else "steps")
    last = series.steps[-1] if series.steps else 0
    if isinstance(axis, list) and len(axis) == length:
        known = [value for each in axis if (value := _value(each)) is not None]
        is_rising = all(a <= b for a, b in zip([last, *known], known, strict=False))
        if len(known) == length and is_rising:
            return known
    return [last + 1 + at for at in range(length)]


def _value(raw: Any) -> Value:
    if isinstance(raw, bool) or not isinstance(raw, int | float) or not isfinite(raw):
        return None
    return raw
