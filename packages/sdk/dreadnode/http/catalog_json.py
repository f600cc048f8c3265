"""Checks that a response is the catalog: another server can respond to the same path."""

from __future__ import annotations

import json
from typing import Any

_FIELDS = frozenset(
    {"tinker_id", "display_name", "family", "type", "size_b", "context_length", "pricing"}
)


def parse_catalog(body: bytes) -> dict[str, Any]:
    """Return a page of the catalog.

    Raises:
        ValueError: BODY is something else.
    """
    page = json.loads(body)
    is_page = isinstance(page, dict) and isinstance(page.get("models"), list)
    if not is_page or "total" not in page:
        raise ValueError("the response is not a page of the catalog")
    for model in page["models"]:
        _require_model(model)
    found: dict[str, Any] = page
    return found


def parse_model(body: bytes) -> dict[str, Any]:
    """Return an entry of the catalog.

    Raises:
        ValueError: BODY is something else.
    """
    model: dict[str, Any] = _require_model(json.loads(body))
    return model


def _require_model(model: Any) -> Any:
    if not isinstance(model, dict) or not model.keys() >= _FIELDS:
        raise ValueError("the response is not an entry of the catalog")
    return model
