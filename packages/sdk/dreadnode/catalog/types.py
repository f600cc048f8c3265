"""The types of the catalog: a model with its terms, a search result, and a refused search."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from operator import attrgetter
from typing import Literal

Algorithm = Literal["sft", "importance_sampling", "ppo"]
ModelType = Literal["dense", "moe"]
Status = Literal["active", "retired"]
Confidence = Literal["high", "medium", "low"]

FACETS = ("family", "type", "status", "organization", "training_type", "vision")
"""The fields whose values a search counts."""
ALGORITHMS: tuple[Algorithm, ...] = ("sft", "importance_sampling", "ppo")


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingModelPricing:
    """Rates in USD per million tokens; ``None`` is a rate that nobody has published."""

    prefill: float | None = None
    sample: float | None = None
    train: float | None = None
    cached_prefill: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ExtendedVariant:
    """The same model under a longer context and at a dearer price.

    Attributes:
        tinker_id: The id to train it under, ``ID:peft:TOKENS``.
        context_length: Tokens.
        pricing: Its own rates, or ``None`` when none is published.
        pricing_as_of: ISO day or month on which these rates were read.
    """

    tinker_id: str
    context_length: int
    pricing: TrainingModelPricing | None = None
    pricing_as_of: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingModel:
    """One base model, on the terms under which Tinker serves it.

    The documented fields come first; the facts beside them follow.

    Attributes:
        tinker_id: The exact string to pass as ``--model`` or ``base_model``.
        display_name: The name for people.
        family: ``llama``, ``qwen``, … An open set: Tinker adds families.
        type: ``dense``, or ``moe`` for a mixture of experts, which is priced by active size.
        size_b: Active parameters, in billions.
        context_length: Tokens of context under ``tinker_id``.
        extended_context: Whether ``extended`` offers a longer context.
        supported_algorithms: What the model can be trained with. Tinker publishes no restriction.
        pricing: Rates in force on ``pricing_as_of``, or ``None`` when none is published.
        organization: Who made the model.
        total_size_b: All parameters, in billions; equal to ``size_b`` for a dense model.
        training_type: What the model was trained to be, in Tinker's words: ``Base``, ``Hybrid``, …
        vision: Whether it reads images; ``None`` when sources differ or are silent.
        audio: Whether it hears; ``None`` when unknown.
        tokenizer_id: Where its tokenizer comes from.
        max_lora_rank: The largest LoRA rank; ``None`` is unknown, not unlimited.
        extended: The long-context variant, if there is one.
        pricing_as_of: ISO day or month on which the rates were read.
        promo: Set when ``pricing`` holds a discount that may end: what is known of it.
        list_pricing: The rates without that discount.
        status: ``retired`` when hosted Tinker serves it no longer; a server with its weights may.
        retired_on: ISO day of its retirement.
        replacement: The ``tinker_id`` that Tinker names in its place.
        first_seen: ISO day or month of the oldest evidence that it was served.
        last_confirmed: ISO day of the newest such evidence.
        confidence: How sure the facts of this entry are.
        notes: What a reader of these facts should know.
    """

    tinker_id: str
    display_name: str
    family: str
    type: ModelType
    size_b: float
    context_length: int
    extended_context: bool = False
    supported_algorithms: tuple[Algorithm, ...] = ALGORITHMS
    pricing: TrainingModelPricing | None = None

    organization: str
    total_size_b: float
    training_type: str
    vision: bool | None = None
    audio: bool | None = None
    tokenizer_id: str | None = None
    max_lora_rank: int | None = None
    extended: ExtendedVariant | None = None
    pricing_as_of: str | None = None
    promo: str | None = None
    list_pricing: TrainingModelPricing | None = None
    status: Status = "active"
    retired_on: str | None = None
    replacement: str | None = None
    first_seen: str | None = None
    last_confirmed: str | None = None
    confidence: Confidence = "high"
    notes: tuple[str, ...] = ()


class CatalogQueryError(ValueError):
    """A search that cannot be meant.

    Attributes:
        field: The name of the invalid argument.
    """

    def __init__(self, field: str, message: str) -> None:
        super().__init__(message)
        self.field = field


@dataclass(frozen=True, slots=True)
class SearchResult:
    """A page of the models that match.

    Attributes:
        matches: All matches, in order.
        limit: The page's size that was asked for.
        offset: How many matches come before this page.
    """

    matches: tuple[TrainingModel, ...]
    limit: int
    offset: int

    @property
    def models(self) -> tuple[TrainingModel, ...]:
        """The entries of this page."""
        return self.matches[self.offset : self.offset + self.limit]

    @property
    def total(self) -> int:
        """How many entries match in all."""
        return len(self.matches)

    @property
    def facets(self) -> Mapping[str, Mapping[str, int]]:
        """For each facet, how many of all matches have each value."""
        return count_facets(self.matches)

    def __iter__(self) -> Iterator[TrainingModel]:
        return iter(self.models)

    def __len__(self) -> int:
        return len(self.models)


def as_extended(model: TrainingModel) -> TrainingModel | None:
    """Return MODEL on the terms of its extended variant, or ``None`` when it has none."""
    variant = model.extended
    if variant is None:
        return None
    return replace(
        model,
        tinker_id=variant.tinker_id,
        display_name=f"{model.display_name} ({variant.context_length // 1024}K)",
        context_length=variant.context_length,
        extended_context=False,
        extended=None,
        pricing=variant.pricing,
        pricing_as_of=variant.pricing_as_of,
        promo=None,
        list_pricing=None,
    )


def count_facets(models: Sequence[TrainingModel]) -> Mapping[str, Mapping[str, int]]:
    """Count the values of each facet, the most frequent first; an unknown value is not counted."""
    counts = {facet: Counter(map(attrgetter(facet), models)) for facet in FACETS}
    algorithms: Counter[str] = Counter()
    for supported, count in Counter(model.supported_algorithms for model in models).items():
        algorithms.update(dict.fromkeys(supported, count))
    return {
        facet: {_word(value): count for value, count in found.most_common() if value is not None}
        for facet, found in (counts | {"algorithm": algorithms}).items()
    }


def _word(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
