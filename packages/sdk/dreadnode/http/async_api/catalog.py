"""The catalog of base models."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

from dreadnode.http.async_api.requests import AsyncRequests
from dreadnode.http.calls import drop_none, get
from dreadnode.http.catalog_json import parse_catalog, parse_model


class AsyncCatalogMethods(AsyncRequests):
    """Methods for the catalog of base models."""

    async def get_training_catalog(
        self,
        *,
        query: str | None = None,
        family: str | None = None,
        algorithm: str | None = None,
        min_size_b: float | None = None,
        max_size_b: float | None = None,
        limit: int | None = None,
        offset: int | None = None,
        type: str | None = None,  # noqa: A002 - the parameter's own name
        status: str | None = None,
        min_context: int | None = None,
        vision: bool | None = None,
        max_prefill: float | None = None,
        max_cached_prefill: float | None = None,
        max_sample: float | None = None,
        max_train: float | None = None,
        sort: str | None = None,
        expand: str | None = None,
        facets: bool | None = None,
    ) -> dict[str, Any]:
        """Return the server's base models as JSON.

        The arguments are the query parameters of `GET /training/catalog`; the first ones mean what
        they mean for `dreadnode.training.search_training_models`.

        Args:
            query: Words that must all occur in the id or the display name.
            family: Exactly this family.
            algorithm: An algorithm that the model must support.
            min_size_b: Least active size, in billions.
            max_size_b: Greatest active size, in billions.
            limit: Page size, 1 to 100; 20 if None.
            offset: How many matches to skip.
            type: `dense` or `moe`.
            status: `active` or `retired`.
            min_context: Least context length, in tokens.
            vision: Whether it reads images.
            max_prefill: Highest rate, USD per million tokens.
            max_cached_prefill: The same.
            max_sample: The same.
            max_train: The same.
            sort: A field to sort by; with a leading `-` downwards.
            expand: Further fields to return, separated by commas.
            facets: Whether to return the number of matches by family, type and algorithm.
        """
        params = drop_none(
            query=query,
            family=family,
            algorithm=algorithm,
            min_size_b=min_size_b,
            max_size_b=max_size_b,
            limit=limit,
            offset=offset,
            type=type,
            status=status,
            min_context=min_context,
            vision=vision,
            max_prefill=max_prefill,
            max_cached_prefill=max_cached_prefill,
            max_sample=max_sample,
            max_train=max_train,
            sort=sort,
            expand=expand,
            facets=facets,
        )
        return await self.send(get("/training/catalog", parse_catalog, params))

    async def get_catalog_model(
        self, tinker_id: str, *, expand: str | None = None
    ) -> dict[str, Any]:
        """Return one base model by its exact id, as JSON.

        Args:
            tinker_id: The id.
            expand: Further fields to return, separated by commas.
        """
        path = f"/training/catalog/{quote(tinker_id)}"
        return await self.send(get(path, parse_model, drop_none(expand=expand)))
