"""Bringing the catalog up to date with what Tinker publishes, without ever losing an entry."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import cast

from dreadnode.catalog.names import readings
from dreadnode.catalog.published import RATES, Published, SourceError
from dreadnode.catalog.types import (
    ExtendedVariant,
    ModelType,
    TrainingModel,
    TrainingModelPricing,
    as_extended,
)

LEAST_KEPT = 0.5
"""Share of the active models that a source must still name to be believed."""


@dataclass(frozen=True, slots=True)
class Refresh:
    """What a published list changes.

    Attributes:
        models: The catalog as it should be, active models first.
        lines: What changed, one sentence for each change.
        by_hand: New ids with a required fact that the list does not contain.
    """

    models: tuple[TrainingModel, ...]
    lines: tuple[str, ...]
    by_hand: tuple[str, ...]


def refresh(models: Sequence[TrainingModel], published: Sequence[Published], day: str) -> Refresh:
    """Return MODELS brought up to date with PUBLISHED, as read on DAY (ISO).

    A model that is no longer published is marked retired on DAY and kept.

    Raises:
        SourceError: When so many models are missing that the list is more likely broken.
    """
    offered = {one.tinker_id: one for one in published if one.trains}
    _refuse_shrunk(models, offered)
    lines: list[str] = []
    renewed = [_renewed(model, offered, day, lines) for model in models]
    appeared, by_hand = _appeared(renewed, offered, day, lines)
    lines += [
        f"{one.tinker_id}: served for sampling only, left out"
        for one in published
        if not one.trains
    ]
    both = [*renewed, *appeared]
    ordered = [m for m in both if m.status == "active"] + [m for m in both if m.status != "active"]
    return Refresh(tuple(ordered), tuple(lines), tuple(by_hand))


def _refuse_shrunk(models: Sequence[TrainingModel], offered: Mapping[str, Published]) -> None:
    active = [model.tinker_id for model in models if model.status == "active"]
    kept = [name for name in active if name in offered]
    if len(kept) < LEAST_KEPT * len(active):
        raise SourceError(
            f"the source names {len(kept)} of {len(active)} active models, which is too few to be "
            "believed; see whether it is the whole list"
        )


def _renewed(
    model: TrainingModel, offered: Mapping[str, Published], day: str, lines: list[str]
) -> TrainingModel:
    """Return MODEL as it is published now, and add what changed to LINES."""
    one = offered.get(model.tinker_id)
    if one is None:
        if model.status == "active":
            lines.append(f"{model.tinker_id}: vanished, marked retired on {day}")
            return replace(model, status="retired", retired_on=day)
        return model
    if model.status == "retired":
        lines.append(f"{model.tinker_id}: served again, no longer retired on {model.retired_on}")
        note = f"Retired on {model.retired_on}, and published again on {day}."
        model = replace(model, status="active", retired_on=None, notes=(*model.notes, note))
    lines += _differences(model, one)
    extended = _variant(model, offered, day, lines)
    return replace(
        _priced(model, one, day),
        context_length=one.context_length or model.context_length,
        extended=extended,
        extended_context=extended is not None,
        last_confirmed=day,
    )


def _priced(model: TrainingModel, one: Published, day: str) -> TrainingModel:
    """Return MODEL with the published prices; a discount is over when they reach the list price."""
    if one.pricing is None:
        return model
    pricing = _merged(model.pricing, one.pricing)
    listed = model.list_pricing
    if listed is not None and pricing.prefill == listed.prefill and pricing.sample == listed.sample:
        return replace(model, pricing=pricing, pricing_as_of=day, promo=None, list_pricing=None)
    return replace(model, pricing=pricing, pricing_as_of=day)


def _merged(known: TrainingModelPricing | None, new: TrainingModelPricing) -> TrainingModelPricing:
    """Return NEW, with what it leaves out taken from KNOWN where no other rate has changed."""
    if known is None:
        return new
    given = {rate: getattr(new, rate) for rate in RATES}
    moved = any(value not in (None, getattr(known, rate)) for rate, value in given.items())
    if moved:
        return new
    return replace(known, **{rate: value for rate, value in given.items() if value is not None})


def _variant(
    model: TrainingModel, offered: Mapping[str, Published], day: str, lines: list[str]
) -> ExtendedVariant | None:
    """Return the extended variant as it is published now; a removed one is kept and reported."""
    found = [one for one in offered.values() if _extends(one, model)]
    known = model.extended
    if not found:
        if known is not None:
            lines.append(f"{known.tinker_id}: not published; see whether it is still served")
        return known
    one = max(found, key=lambda each: each.context_length or 0)
    if known is None or known.tinker_id != one.tinker_id:
        lines.append(f"{one.tinker_id}: appeared, as the extended variant of {model.tinker_id}")
        if one.context_length is None:
            return known
        known = ExtendedVariant(tinker_id=one.tinker_id, context_length=one.context_length)
    else:
        extended = as_extended(model)
        lines += [] if extended is None else _differences(extended, one)
    return replace(
        known,
        context_length=one.context_length or known.context_length,
        pricing=known.pricing if one.pricing is None else _merged(known.pricing, one.pricing),
        pricing_as_of=known.pricing_as_of if one.pricing is None else day,
    )


def _extends(one: Published, model: TrainingModel) -> bool:
    return one.tinker_id != model.tinker_id and one.base_id == model.tinker_id


def _differences(model: TrainingModel, one: Published) -> Iterator[str]:
    """Yield what is published of MODEL and is not what the catalog says."""
    if one.context_length is not None and one.context_length != model.context_length:
        yield f"{model.tinker_id}: context {model.context_length} → {one.context_length}"
    if one.pricing is None:
        return
    for rate in RATES:
        new, old = getattr(one.pricing, rate), getattr(model.pricing, rate, None)
        if new is not None and new != old:
            yield f"{model.tinker_id}: {rate} {'unknown' if old is None else f'{old:g}'} → {new:g}"


def _appeared(
    models: Sequence[TrainingModel], offered: Mapping[str, Published], day: str, lines: list[str]
) -> tuple[list[TrainingModel], list[str]]:
    """Return entries for the ids that are new, and what to say of those that lack a fact."""
    known = {model.tinker_id for model in models}
    known |= {model.extended.tinker_id for model in models if model.extended}
    entries: list[TrainingModel] = []
    by_hand: list[str] = []
    for one in offered.values():
        if one.tinker_id in known or (one.base_id != one.tinker_id and one.base_id in offered):
            continue
        entry, missing = _entry(one, models, day)
        if entry is None:
            by_hand.append(f"{one.tinker_id}: appeared, and its {missing} must be added by hand")
            continue
        lines.append(f"{one.tinker_id}: appeared")
        extended = _variant(entry, offered, day, lines)
        entries.append(replace(entry, extended=extended, extended_context=extended is not None))
    return entries, by_hand


def _entry(
    one: Published, models: Sequence[TrainingModel], day: str
) -> tuple[TrainingModel | None, str]:
    """Return an entry from the facts of the list and the name, or the missing fact."""
    name = readings(one.tinker_id)[0]
    active = name.active if one.type == "moe" else name.size
    if one.type is None or name.size is None or active is None:
        return None, "kind (dense or moe)" if one.type is None else "size"
    if one.context_length is None:
        return None, "context length"
    organization = one.tinker_id.partition("/")[0]
    families = [m.family for m in models if set(m.family.split("-")) <= set(name.words)]
    words = (one.training_type or "").lower()
    return (
        TrainingModel(
            tinker_id=one.tinker_id,
            display_name=one.name,
            family=families[0] if families else name.words[0] if name.words else organization,
            type=cast("ModelType", one.type),
            size_b=active,
            context_length=one.context_length,
            pricing=one.pricing,
            organization=organization,
            total_size_b=name.size,
            training_type=one.training_type or "Unknown",
            vision="vision" in words if words else None,
            audio="audio" in words if words else None,
            tokenizer_id=one.base_id,
            pricing_as_of=day if one.pricing else None,
            first_seen=day,
            last_confirmed=day,
            confidence="medium",
            notes=("Sizes as the name says them.", *([one.note] if one.note else ())),
        ),
        "",
    )
