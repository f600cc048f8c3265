"""Reading what Tinker publishes: one object for each id that it serves, with words for numbers.

{"tinker_id": "Qwen/Qwen3-8B", "name": "Qwen3-8B", "type": "Hybrid", "arch": "Dense",
 "context": "32K", "prefill": "$0.195", "cached_prefill": "$0.039", "sample": "$0.60",
 "train": "$0.44", "note": "…"}
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from dreadnode.catalog.types import TrainingModelPricing

_UNKNOWN = frozenset({"", "-", "\u2013", "\u2014", "n/a", "tbd"})
_TOKENS = re.compile(r"(?P<number>\d+(?:\.\d+)?)\s*(?P<unit>[km]?)", re.IGNORECASE)
_UNITS = {"": 1, "k": 1024, "m": 1024 * 1024}
RATES = ("prefill", "sample", "train", "cached_prefill")


class SourceError(ValueError):
    """A source that is not to be believed; its text is one sentence."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Published:
    """One id that Tinker publishes, in our units.

    Attributes:
        tinker_id: The id, with the suffix of its variant if it has one.
        name: The name for people.
        context_length: Tokens, or ``None`` when not given.
        pricing: The rates that are given, or ``None`` when none is.
        training_type: For instance ``Hybrid + Vision``.
        type: ``dense`` or ``moe``, or ``None`` when not given.
        note: The text beside it.
    """

    tinker_id: str
    name: str
    context_length: int | None
    pricing: TrainingModelPricing | None
    training_type: str | None
    type: str | None
    note: str | None

    @property
    def base_id(self) -> str:
        """The id without the suffix of a variant."""
        return self.tinker_id.partition(":")[0]

    @property
    def trains(self) -> bool:
        """Whether it can be trained: what is served for sampling alone says so in its id."""
        return ":sampling" not in self.tinker_id


def read(text: str) -> list[Published]:
    """Return the ids of a published list.

    Raises:
        SourceError: When TEXT is not such a list, or a row of it cannot be understood.
    """
    try:
        data = json.loads(text)
    except ValueError as error:
        raise SourceError(f"the source is not JSON: {error}") from None
    rows = data.get("models") if isinstance(data, dict) else data
    if not isinstance(rows, list) or not rows:
        raise SourceError("the source is not a list of models, or an empty one")
    models = [_row(number, row) for number, row in enumerate(rows, 1)]
    twice = [name for name, count in Counter(one.tinker_id for one in models).items() if count > 1]
    if twice:
        raise SourceError(f"the source names `{twice[0]}` more than once")
    return models


def _row(number: int, row: Any) -> Published:
    if not isinstance(row, dict):
        raise SourceError(f"model {number} of the source is not an object")
    tinker_id = row.get("tinker_id")
    if not isinstance(tinker_id, str) or not re.fullmatch(
        r"[\w.-]+/[\w.-]+(:[\w.:-]+)?", tinker_id
    ):
        raise SourceError(f"model {number} of the source has no usable `tinker_id`: {tinker_id!r}")
    rates = {rate: _dollars(tinker_id, rate, row.get(rate)) for rate in RATES}
    known = any(rate is not None for rate in rates.values())
    return Published(
        tinker_id=tinker_id,
        name=_words(row, "name") or tinker_id.partition("/")[2],
        context_length=_context(tinker_id, row.get("context")),
        pricing=TrainingModelPricing(**rates) if known else None,
        training_type=_words(row, "type"),
        type={"moe": "moe", "dense": "dense"}.get((_words(row, "arch") or "").lower()),
        note=_words(row, "note"),
    )


def _words(row: Mapping[str, Any], name: str) -> str | None:
    value = row.get(name)
    return " ".join(value.split()) or None if isinstance(value, str) else None


def _dollars(tinker_id: str, rate: str, value: Any) -> float | None:
    """Return a rate in USD per million tokens; an absent one is unknown, and none is zero."""
    if value is None or (isinstance(value, str) and value.strip().lower() in _UNKNOWN):
        return None
    try:
        dollars = float(str(value).strip().removeprefix("$").replace(",", ""))
    except ValueError:
        dollars = -1.0
    if not 0 < dollars < 10_000:
        raise SourceError(f"the `{rate}` price of `{tinker_id}` is not a price: {value!r}")
    return dollars


def _context(tinker_id: str, value: Any) -> int | None:
    if value is None:
        return None
    match = _TOKENS.fullmatch(str(value).strip())
    tokens = int(float(match["number"]) * _UNITS[match["unit"].lower()]) if match else 0
    if tokens < 1:
        raise SourceError(f"the context of `{tinker_id}` is not a number of tokens: {value!r}")
    return tokens
