"""The catalog: a search as one types, facets, prices, and what this server can train."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Self

from app.training.catalog import CatalogQueryError, TrainingModel, suggest_training_models
from fastapi import APIRouter, Query
from pydantic import Field, model_validator
from starlette.responses import Response

from dreadnode_api.catalog.availability import ask, is_available
from dreadnode_api.catalog.routes import known_entry, refused
from dreadnode_api.catalog.schemas import CatalogQuery
from dreadnode_api.catalog.search import MAX_LIMIT
from dreadnode_api.catalog.types import count_facets
from dreadnode_api.console.deps import ReaderPage, empty_is_none
from dreadnode_api.console.job_text import as_command
from dreadnode_api.engine_client import Capabilities
from dreadnode_api.errors import Invalid
from dreadnode_api.http.deps import InEngine, InSettings

router = APIRouter()

MOST_COMPARED = 4
FACETS = {"family": "Family", "type": "Type", "algorithm": "Algorithm", "status": "Status"}
WORDS = {"importance_sampling": "importance sampling", "sft": "SFT", "ppo": "PPO", "moe": "MoE"}
SORTS = [
    ("", "Catalog's order"),
    ("size_b", "Size, smallest first"),
    ("-size_b", "Size, largest first"),
    ("-context_length", "Context, longest first"),
    ("train", "Price of training"),
    ("sample", "Price of sampling"),
    ("prefill", "Price of prefill"),
]
CONTEXTS = [
    ("", "Any context"),
    *((str(2**n), f"{2**n // 1024}K or more") for n in (15, 16, 17, 18)),
]
RATES = {
    "train": "Train",
    "prefill": "Prefill",
    "cached_prefill": "Cached prefill",
    "sample": "Sample",
}
Models = Annotated[Sequence[str], Field(max_length=20), Query()]


class CatalogFilters(CatalogQuery):
    """The search of the page: that of the API's route, and what this server can train.

    Attributes:
        trainable: only models that this server's engine can train now.
        chosen: the models that are ticked to be compared.
    """

    limit: int = Field(MAX_LIMIT, ge=1, le=MAX_LIMIT)
    trainable: bool = False
    chosen: list[str] = Field([], max_length=20)

    @model_validator(mode="before")
    @classmethod
    def _filled_in(cls, value: Any) -> Any:
        return {k: v for k, v in value.items() if empty_is_none(v) is not None}

    def without(self, facet: str) -> Self:
        """Return the same search without one of its filters."""
        return self.model_copy(update={facet: None})

    def matches(self, known: Capabilities | None) -> list[TrainingModel]:
        """Return the models that match, in order.

        Raises:
            Invalid: the search is not possible.
        """
        try:
            found = self.find().matches
        except CatalogQueryError as error:
            raise refused(error) from None
        return [m for m in found if not self.trainable or is_available(known, m.tinker_id)]


@dataclass(frozen=True, slots=True)
class FacetValue:
    """A value of a facet: how many models have it, and the search that selects it."""

    value: str
    label: str
    count: int
    is_chosen: bool
    url: str


@router.get("/ws/{ws}/catalog")
async def catalog(
    page: ReaderPage,
    engine: InEngine,
    settings: InSettings,
    query: Annotated[CatalogFilters, Query()],
) -> Response:
    """Show the models that match; htmx asks for them as one types."""
    known, state = await ask(engine, settings)
    found = query.matches(known)
    shown = {model.tinker_id for model in found}
    chosen = [known_entry(each) for each in dict.fromkeys(query.chosen)]
    return page.render(
        "catalog_models.html" if page.is_fragment else "catalog.html",
        models=[(model, is_available(known, model.tinker_id)) for model in found],
        near=[] if found else suggest_training_models(query.query or "", limit=3),
        facets=_facets(page, query, known),
        query=query,
        chosen={model.tinker_id for model in chosen},
        elsewhere=[model for model in chosen if model.tinker_id not in shown],
        problem=state["detail"],
        sorts=SORTS,
        contexts=CONTEXTS,
        words=WORDS,
        most=MOST_COMPARED,
    )


def _facets(
    page: ReaderPage, query: CatalogFilters, known: Capabilities | None
) -> list[tuple[str, list[FacetValue]]]:
    """Return the facets with their values, counted among what the other filters leave."""
    given = query.model_dump(exclude_defaults=True, exclude={"chosen"})
    facets = []
    for name, title in FACETS.items():
        current = getattr(query, name)
        counts = dict(count_facets(query.without(name).matches(known))[name])
        if current is not None:
            counts.setdefault(current, 0)
        values = [
            FacetValue(
                value=value,
                label=WORDS.get(value, value),
                count=count,
                is_chosen=value == current,
                url=page.url("catalog", **{**given, name: None if value == current else value}),
            )
            for value, count in counts.items()
        ]
        facets.append((title, values))
    return facets


@router.get("/ws/{ws}/catalog/compare")
async def compare(
    page: ReaderPage, engine: InEngine, settings: InSettings, chosen: Models = ()
) -> Response:
    """Show two to four models side by side."""
    models = [known_entry(each) for each in dict.fromkeys(chosen)]
    if not 2 <= len(models) <= MOST_COMPARED:
        raise Invalid(
            f"Choose 2 to {MOST_COMPARED} models to compare, not {len(models)}", "query", "chosen"
        )
    known, _ = await ask(engine, settings)
    return page.render(
        "catalog_compare.html",
        models=models,
        available={model.tinker_id: is_available(known, model.tinker_id) for model in models},
        rates=RATES,
        words=WORDS,
        cheapest={rate: _cheapest(models, rate) for rate in RATES},
    )


def _cheapest(models: Sequence[TrainingModel], rate: str) -> float | None:
    """Return the lowest RATE, if it is known of all models and not the same."""
    rates = [None if m.pricing is None else getattr(m.pricing, rate) for m in models]
    known = [each for each in rates if each is not None]
    return min(known) if len(known) == len(rates) and len(set(known)) > 1 else None


@router.get("/ws/{ws}/catalog/{tinker_id:path}")
async def model(
    page: ReaderPage, engine: InEngine, settings: InSettings, tinker_id: str
) -> Response:
    """Show one model: its terms, its lifecycle, and the command that trains it."""
    found = known_entry(tinker_id)
    known, state = await ask(engine, settings)
    variant = found.extended
    return page.render(
        "catalog_model.html",
        model=found,
        available=is_available(known, found.tinker_id),
        variant_available=None if variant is None else is_available(known, variant.tinker_id),
        problem=state["detail"],
        is_paid=settings.is_paid,
        rates=RATES,
        words=WORDS,
        command=as_command(_example(found)),
    )


def _example(model: TrainingModel) -> dict[str, Any]:
    """Return the request of a first job on MODEL."""
    data = {"name": "rows", "version": "1.0.0"}
    if "sft" in model.supported_algorithms:
        return {"trainer_type": "sft", "model": model.tinker_id, "config": {"dataset_ref": data}}
    return {
        "trainer_type": "rl",
        "model": model.tinker_id,
        "config": {
            "algorithm": model.supported_algorithms[0],
            "prompt_dataset_ref": data,
            "reward_recipe": {"name": "row_reward_v1"},
        },
    }
