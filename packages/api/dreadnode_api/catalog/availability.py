"""Which models of the catalog this server's engine can train now."""

from typing import Any

from app.training.catalog import TrainingModel

from dreadnode_api.engine_client import Capabilities, EngineClient
from dreadnode_api.errors import ApiError
from dreadnode_api.settings import Settings


async def ask(
    engine: EngineClient, settings: Settings
) -> tuple[Capabilities | None, dict[str, Any]]:
    """Return what the engine serves and how old that information is, or why it is unknown.

    The catalog can be read without the engine; `available` is unknown then.
    """
    paid = {"is_paid": settings.is_paid}
    try:
        known = await engine.capabilities()
    except ApiError as error:
        return None, {"age_seconds": None, "serves": [], "detail": error.detail, **paid}
    serves = sorted(name for name in known.models if known.trainable(name) is not None)
    return known, {"age_seconds": round(known.age, 1), "serves": serves, "detail": None, **paid}


def is_available(known: Capabilities | None, tinker_id: str) -> bool | None:
    """Return whether the engine can train a model now; None if that is unknown."""
    return None if known is None else known.trainable(tinker_id) is not None


def add_availability(
    shown: dict[str, Any], model: TrainingModel, known: Capabilities | None
) -> None:
    """Add to the representation SHOWN of MODEL whether it is available."""
    shown["available"] = is_available(known, model.tinker_id)
    if shown.get("extended") is not None:
        shown["extended"]["available"] = is_available(known, shown["extended"]["tinker_id"])
