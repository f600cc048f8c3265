"""The responses and queries of the catalog."""

import re
from typing import Annotated, Literal

from app.training.catalog import ALGORITHMS, TINKER_MODELS, SearchResult
from pydantic import BaseModel, ConfigDict, Field

from dreadnode_api.catalog.search import MAX_TEXT, SORT_KEYS, STATUSES, TYPES, run
from dreadnode_api.catalog.search import Query as Search
from dreadnode_api.catalog.view import EXPANSIONS
from dreadnode_api.http.schemas import Response

Algorithm = Literal["sft", "importance_sampling", "ppo"]
Rate = Annotated[float | None, Field(default=None, gt=0)]
_BEYOND = "Only with `expand={}`"


class TrainingModelPricing(Response):
    """Optional upstream pricing metadata (USD per million tokens)."""

    prefill: Rate
    sample: Rate
    train: Rate
    cached_prefill: Annotated[Rate, Field(description=_BEYOND.format("prices"))]


class ExtendedVariant(Response):
    """The same model with a longer context and its own prices."""

    tinker_id: str
    context_length: int = Field(ge=1)
    pricing: TrainingModelPricing | None = None
    pricing_as_of: str | None = None
    available: bool | None = Field(None, description=_BEYOND.format("available"))


class Details(Response):
    """More facts about a model; only with `expand=details`."""

    organization: str | None = None
    total_size_b: float | None = Field(None, description="All parameters, in billions")
    training_type: str | None = None
    vision: bool | None = None
    audio: bool | None = None
    tokenizer_id: str | None = None
    max_lora_rank: int | None = Field(None, description="Null is unknown, not unlimited")
    notes: list[str] | None = None


class Prices(Response):
    """The source of the prices; only with `expand=prices`."""

    pricing_as_of: str | None = Field(None, description="ISO day or month of the prices")
    promo: str | None = Field(None, description="Set when the prices are discounted")
    list_pricing: TrainingModelPricing | None = Field(
        None, description="The prices without the discount"
    )


class Lifecycle(Response):
    """Whether hosted Tinker serves a model; only with `expand=lifecycle`."""

    status: Literal["active", "retired"] | None = None
    retired_on: str | None = None
    replacement: str | None = None
    first_seen: str | None = None
    last_confirmed: str | None = None
    confidence: Literal["high", "medium", "low"] | None = None


class TrainingModel(Details, Prices, Lifecycle):
    """One base model available for hosted training jobs."""

    tinker_id: str = Field(description="Exact string to pass as `--model` or `base_model`")
    display_name: str
    family: str = Field(description="`llama`, `qwen`, … (an open set)")
    type: Literal["dense", "moe"]
    size_b: float = Field(ge=0.1, description="Active parameters, in billions")
    context_length: int = Field(ge=1)
    extended_context: bool = False
    supported_algorithms: list[Algorithm]
    pricing: TrainingModelPricing | None = None
    extended: ExtendedVariant | None = Field(None, description=_BEYOND.format("extended"))
    available: bool | None = Field(
        None,
        description="Whether this server's engine can train it now; null if unknown. "
        + _BEYOND.format("available"),
    )


class EngineState(Response):
    """The engine's response from which `available` was set, and its age."""

    age_seconds: float | None = Field(description="Null if the engine did not respond")
    serves: list[str] = Field(description="Every id that it can train now, without stand-ins")
    detail: str | None = Field(None, description="Why the engine did not respond")
    is_paid: bool = Field(False, description="Whether jobs on it are charged, except rehearsals")


class TrainingCatalogResponse(Response):
    """Paginated list response for `GET /training/catalog`."""

    models: list[TrainingModel]
    total: int = Field(ge=0, description="All matches, before `limit`")
    limit: int = Field(ge=1)
    offset: int | None = Field(None, description="With `offset`, `expand` or `facets`")
    facets: dict[str, dict[str, int]] | None = Field(None, description="Only with `facets=true`")
    engine: EngineState | None = Field(None, description=_BEYOND.format("available"))


class TrainingCatalogEntry(TrainingModel):
    """One entry of the catalog."""

    engine: EngineState | None = Field(None, description=_BEYOND.format("available"))


# OpenAPI describes these texts more exactly than pydantic checks them. The search refuses others
# with its own messages.
_ONE_OF = f"({'|'.join((*EXPANSIONS, 'all'))})"
_VISIBLE = r"^[^\x00-\x1f\x7f-\x9f]*$"
_LIST_OF = f"^ *{_ONE_OF}?( *, *{_ONE_OF}?)* *$"
Expand = Annotated[str, Field(json_schema_extra={"pattern": _LIST_OF})]
Words = Annotated[str, Field(json_schema_extra={"pattern": _VISIBLE, "maxLength": MAX_TEXT})]
OneAlgorithm = Annotated[str, Field(json_schema_extra={"enum": list(ALGORITHMS)})]
OneType = Annotated[str, Field(json_schema_extra={"enum": list(TYPES)})]
OneStatus = Annotated[str, Field(json_schema_extra={"enum": list(STATUSES)})]
SortKey = Annotated[str, Field(json_schema_extra={"pattern": f"^-?({'|'.join(SORT_KEYS)})$"})]
Amount = Annotated[float, Field(json_schema_extra={"minimum": 0})]


class ViewQuery(BaseModel):
    """The fields of a response beyond the documented ones."""

    model_config = ConfigDict(frozen=True)

    expand: Expand | None = Field(
        None,
        description="`details`, `prices`, `extended`, `lifecycle` or `available`, several of "
        "them separated by commas, or `all`",
    )


class CatalogQuery(ViewQuery):
    """The query of `GET /training/catalog`."""

    query: Words | None = Field(
        None, description="Free-text search across model id and display name"
    )
    family: Words | None = Field(
        None, description="Restrict to a single model family (`llama`, `qwen`, …)"
    )
    algorithm: OneAlgorithm | None = Field(
        None,
        description="Restrict to models supporting this algorithm "
        "(`sft`, `importance_sampling`, `ppo`)",
    )
    min_size_b: Amount | None = Field(None, description="Minimum active parameter count (B)")
    max_size_b: Amount | None = Field(None, description="Maximum active parameter count (B)")
    limit: int = Field(
        20,
        ge=1,
        le=100,
        description="Maximum number of models to return; total still reflects all matches",
    )
    offset: int = Field(0, ge=0, description="How many matches to skip")
    type: OneType | None = Field(None, description="`dense` or `moe`")
    status: OneStatus | None = Field(None, description="`active` or `retired`")
    min_context: int | None = Field(None, ge=1, description="Minimum context length, in tokens")
    vision: bool | None = Field(None, description="Whether it reads images")
    max_prefill: Amount | None = Field(None, description="Price ceiling, USD per million tokens")
    max_cached_prefill: Amount | None = Field(None, description="Price ceiling")
    max_sample: Amount | None = Field(None, description="Price ceiling")
    max_train: Amount | None = Field(None, description="Price ceiling")
    sort: SortKey | None = Field(
        None,
        description="A numeric field, such as `size_b`, `context_length` or `train`; a leading "
        "`-` sorts in descending order. Unknown values come last",
    )
    facets: bool = Field(False, description="Count the values of all matches")

    def find(self) -> SearchResult:
        """Return the models that match.

        Invisible characters count as spaces, and a minimum size above the maximum matches nothing:
        OpenAPI cannot describe either as an error.

        Raises:
            CatalogQueryError: a value is not possible.
        """
        values = self.model_dump(include=CatalogQuery.model_fields.keys() - {"expand", "facets"})
        for name in ("query", "family"):
            if values[name] is not None and re.match(_VISIBLE, values[name]):
                values[name] = "".join(c if c.isprintable() else " " for c in values[name])
        low, high = self.min_size_b, self.max_size_b
        if low is not None and high is not None and low > high >= 0:
            Search(**{**values, "max_size_b": None})  # The other values must be possible, too.
            return SearchResult((), self.limit, self.offset)
        return run(Search(**values), TINKER_MODELS)
