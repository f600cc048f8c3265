"""The catalog of base models."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

from dreadnode.http.async_api.requests import AsyncRequests
from dreadnode.http.calls import Param, drop_none, get
from dreadnode.http.catalog_json import parse_catalog, parse_model


class AsyncCatalogMethods(AsyncRequests):
    """Methods for the catalog of base models."""

    async def get_training_catalog(self, **filters: Param | None) -> dict[str, Any]:
        """Return the server's base models as JSON; FILTERS are the query parameters."""
        return await self.send(get("/training/catalog", parse_catalog, drop_none(**filters)))

    async def get_catalog_model(self, tinker_id: str, **options: Param | None) -> dict[str, Any]:
        """Return one base model by its exact id, as JSON."""
        path = f"/training/catalog/{quote(tinker_id)}"
        return await self.send(get(path, parse_model, drop_none(**options)))
