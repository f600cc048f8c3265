"""The documented message for an id that is not in the catalog."""

from app.training.catalog import suggest_training_models


def unknown_model(model_id: str) -> str:
    """Return the documented two lines for MODEL_ID, which is not in the catalog."""
    near = [m.tinker_id for m in suggest_training_models(model_id, limit=2)]
    hint = f"Did you mean one of: {', '.join(near)}?" if near else "See `dn train catalog`."
    return f"Unknown training base model '{model_id}'.\n{hint}"
