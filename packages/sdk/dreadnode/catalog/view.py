"""An entry of the catalog as JSON: the documented fields, and what goes beyond them on request."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import asdict
from typing import Any

from dreadnode.catalog.types import CatalogQueryError, SearchResult, TrainingModel

EXPANSIONS = ("details", "prices", "extended", "lifecycle", "available")


def expansions(text: str | None) -> frozenset[str]:
    """Return the names in a comma-separated list; ``all`` stands for each of them.

    Raises:
        CatalogQueryError: When a name is none of ``EXPANSIONS``.
    """
    names = frozenset(name.strip() for name in (text or "").split(",") if name.strip())
    if "all" in names:
        return frozenset(EXPANSIONS)
    if not names <= frozenset(EXPANSIONS):
        choices = ", ".join(EXPANSIONS)
        raise CatalogQueryError("expand", f"`expand` must hold only {choices}, or be all")
    return names


def page(result: SearchResult, expand: Collection[str] = (), *, facets: bool = False) -> Any:
    """Return RESULT as the documented response; with EXPAND or FACETS, with more fields."""
    answer: dict[str, Any] = {
        "models": [entry(model, expand) for model in result.models],
        "total": result.total,
        "limit": result.limit,
    }
    if expand or facets or result.offset:
        answer["offset"] = result.offset
    if facets:
        answer["facets"] = result.facets
    return answer


def entry(model: TrainingModel, expand: Collection[str] = ()) -> dict[str, Any]:
    """Return the documented fields of MODEL, and those that EXPAND names.

    ``available`` is not a fact of the catalog: who knows the engine adds it.
    """
    pricing = asdict(model.pricing) if model.pricing is not None else None
    if pricing is not None and "prices" not in expand:
        del pricing["cached_prefill"]
    answer: dict[str, Any] = {
        "tinker_id": model.tinker_id,
        "display_name": model.display_name,
        "family": model.family,
        "type": model.type,
        "size_b": model.size_b,
        "context_length": model.context_length,
        "extended_context": model.extended_context,
        "supported_algorithms": list(model.supported_algorithms),
        "pricing": pricing,
    }
    for name in EXPANSIONS:
        if name in expand and name in _BEYOND:
            answer |= _BEYOND[name](model)
    return answer


def _details(model: TrainingModel) -> dict[str, Any]:
    return {
        "organization": model.organization,
        "total_size_b": model.total_size_b,
        "training_type": model.training_type,
        "vision": model.vision,
        "audio": model.audio,
        "tokenizer_id": model.tokenizer_id,
        "max_lora_rank": model.max_lora_rank,
        "notes": list(model.notes),
    }


def _prices(model: TrainingModel) -> dict[str, Any]:
    return {
        "pricing_as_of": model.pricing_as_of,
        "promo": model.promo,
        "list_pricing": None if model.list_pricing is None else asdict(model.list_pricing),
    }


def _extended(model: TrainingModel) -> dict[str, Any]:
    return {"extended": None if model.extended is None else asdict(model.extended)}


def _lifecycle(model: TrainingModel) -> dict[str, Any]:
    return {
        "status": model.status,
        "retired_on": model.retired_on,
        "replacement": model.replacement,
        "first_seen": model.first_seen,
        "last_confirmed": model.last_confirmed,
        "confidence": model.confidence,
    }


_BEYOND: Mapping[str, Any] = {
    "details": _details,
    "prices": _prices,
    "extended": _extended,
    "lifecycle": _lifecycle,
}
