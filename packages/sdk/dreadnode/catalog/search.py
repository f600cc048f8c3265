"""Search over the catalog: what a query may ask, what is refused, and in what order it answers."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from operator import itemgetter

from dreadnode.catalog.types import (
    ALGORITHMS,
    CatalogQueryError,
    SearchResult,
    TrainingModel,
    TrainingModelPricing,
)

TYPES = ("dense", "moe")
STATUSES = ("active", "retired")
RATES = ("prefill", "cached_prefill", "sample", "train")
SORT_KEYS = ("size_b", "total_size_b", "context_length", "max_lora_rank", *RATES)
MAX_LIMIT = 100
MAX_TEXT = 200

_UNPRICED = TrainingModelPricing()


@dataclass(frozen=True, slots=True, kw_only=True)
class Query:
    """What to look for; ``search_training_models`` says what each field means.

    Raises:
        CatalogQueryError: When a value cannot be meant; it names the field.
    """

    query: str | None = None
    family: str | None = None
    algorithm: str | None = None
    min_size_b: float | None = None
    max_size_b: float | None = None
    limit: int = 20
    offset: int = 0
    type: str | None = None
    status: str | None = None
    min_context: int | None = None
    vision: bool | None = None
    max_prefill: float | None = None
    max_cached_prefill: float | None = None
    max_sample: float | None = None
    max_train: float | None = None
    sort: str | None = None

    def __post_init__(self) -> None:
        for name in ("query", "family"):
            _refuse_text(name, getattr(self, name))
        _refuse_choice("algorithm", self.algorithm, ALGORITHMS)
        _refuse_choice("type", self.type, TYPES)
        _refuse_choice("status", self.status, STATUSES)
        if self.sort is not None:
            _refuse_choice("sort", self.sort.removeprefix("-"), SORT_KEYS)
        for name in ("min_size_b", "max_size_b", *(f"max_{rate}" for rate in RATES)):
            _refuse_number(name, getattr(self, name))
        if not 1 <= self.limit <= MAX_LIMIT:
            raise CatalogQueryError(
                "limit", f"`limit` must be from 1 to {MAX_LIMIT}, not {self.limit}"
            )
        if self.offset < 0:
            raise CatalogQueryError("offset", f"`offset` must be 0 or more, not {self.offset}")
        if self.min_context is not None and self.min_context < 1:
            raise CatalogQueryError(
                "min_context", f"`min_context` must be 1 token or more, not {self.min_context}"
            )
        low, high = self.min_size_b, self.max_size_b
        if low is not None and high is not None and low > high:
            raise CatalogQueryError(
                "min_size_b", f"`min_size_b` of {low:g} is above `max_size_b` of {high:g}"
            )


def run(query: Query, models: Sequence[TrainingModel]) -> SearchResult:
    """Return those of MODELS that QUERY asks for, in its order."""
    matches = list(models)
    for check in _checks(query):
        matches = [model for model in matches if check(model)]
    matches = _mentioning(matches, (query.query or "").lower().split())
    if query.sort is None:
        # A stable sort: the catalog's own order, active models first.
        matches.sort(key=_is_retired)
    else:
        matches = _sorted(matches, query.sort)
    return SearchResult(tuple(matches), query.limit, query.offset)


def _is_retired(model: TrainingModel) -> bool:
    return model.status != "active"


def _checks(query: Query) -> list[Callable[[TrainingModel], bool]]:
    """Return one predicate for each filter that is set, the cheapest first."""
    checks: list[Callable[[TrainingModel], bool]] = []
    if query.type is not None:
        checks.append(lambda model: model.type == query.type)
    if query.status is not None:
        checks.append(lambda model: model.status == query.status)
    if query.vision is not None:
        checks.append(lambda model: model.vision is query.vision)
    if (family := query.family) is not None:
        checks.append(lambda model: model.family == family.strip().lower())
    if (low := query.min_size_b) is not None:
        checks.append(lambda model: model.size_b >= low)
    if (high := query.max_size_b) is not None:
        checks.append(lambda model: model.size_b <= high)
    if (context := query.min_context) is not None:
        checks.append(lambda model: model.context_length >= context)
    if query.algorithm is not None:
        checks.append(lambda model: query.algorithm in model.supported_algorithms)
    checks.extend(
        _below(rate, ceiling)
        for rate in RATES
        if (ceiling := getattr(query, f"max_{rate}")) is not None
    )
    return checks


def _below(rate: str, ceiling: float) -> Callable[[TrainingModel], bool]:
    def check(model: TrainingModel) -> bool:
        price = getattr(model.pricing or _UNPRICED, rate)
        return price is not None and price <= ceiling

    return check


def _mentioning(models: list[TrainingModel], words: Sequence[str]) -> list[TrainingModel]:
    """Return those of MODELS in whose id or display name each of WORDS occurs, in any case."""
    if not words:
        return models
    texts = [(f"{model.tinker_id}\n{model.display_name}".lower(), model) for model in models]
    for word in words:
        texts = [pair for pair in texts if word in pair[0]]
    return [model for _, model in texts]


def _sorted(models: Sequence[TrainingModel], sort: str) -> list[TrainingModel]:
    """Sort by the field that SORT names, keeping the catalog's order among equals."""
    key = sort.removeprefix("-")
    keyed = [(_number(model, key), model) for model in models]
    known = [(value, model) for value, model in keyed if value is not None]
    known.sort(key=itemgetter(0), reverse=sort.startswith("-"))
    unknown = [model for value, model in keyed if value is None]
    return [model for _, model in known] + unknown


def _number(model: TrainingModel, key: str) -> float | None:
    holder = (model.pricing or _UNPRICED) if key in RATES else model
    value: float | None = getattr(holder, key)
    return value


def _refuse_text(name: str, value: str | None) -> None:
    if value is None:
        return
    if len(value) > MAX_TEXT:
        raise CatalogQueryError(
            name, f"`{name}` must be at most {MAX_TEXT} characters long, not {len(value)}"
        )
    if not value.isprintable():
        raise CatalogQueryError(name, f"`{name}` must not hold control characters")


def _refuse_choice(name: str, value: str | None, choices: Sequence[str]) -> None:
    if value is not None and value not in choices:
        shown = value if value.isprintable() and len(value) <= MAX_TEXT else "that value"
        raise CatalogQueryError(
            name, f"`{name}` must be one of {', '.join(choices)}, not {_plain(shown)}"
        )


def _refuse_number(name: str, value: float | None) -> None:
    if value is not None and not (math.isfinite(value) and value >= 0):
        raise CatalogQueryError(name, f"`{name}` must be a number of 0 or more, not {value}")


def _plain(text: str) -> str:
    """Return TEXT without square brackets, which some terminals' clients read as markup."""
    return text.replace("[", "(").replace("]", ")")
