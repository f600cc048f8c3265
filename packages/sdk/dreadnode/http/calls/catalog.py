"""The base models that a server knows."""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import quote

from dreadnode.config import Scope
from dreadnode.http.calls.call import Call, Param, get, given


def get_training_catalog(_: Scope, /, **filters: Param | None) -> Call[dict[str, Any]]:
    """The base models that the server knows, as it tells them; FILTERS are the query's."""
    return get("/training/catalog", json.loads, given(**filters))


def get_catalog_model(_: Scope, /, tinker_id: str, **options: Param | None) -> Call[dict[str, Any]]:
    """One base model, by its exact id."""
    return get(f"/training/catalog/{quote(tinker_id)}", json.loads, given(**options))
