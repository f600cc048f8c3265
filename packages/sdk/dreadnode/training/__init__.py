"""The catalog of base models, and what a training job's request and answer hold.

Only the catalog is imported here, in a few milliseconds; what it needs for search and for
suggestions is imported when it is asked for.
"""

from dreadnode.training.models import (
    ALGORITHMS,
    CATALOG_AS_OF,
    TINKER_MODELS,
    CatalogQueryError,
    ExtendedVariant,
    SearchResult,
    TrainingModel,
    TrainingModelPricing,
    get_training_model,
    search_training_models,
    suggest_training_models,
)

__all__ = [
    "ALGORITHMS",
    "CATALOG_AS_OF",
    "TINKER_MODELS",
    "CatalogQueryError",
    "ExtendedVariant",
    "SearchResult",
    "TrainingModel",
    "TrainingModelPricing",
    "get_training_model",
    "search_training_models",
    "suggest_training_models",
]
