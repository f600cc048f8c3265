"""The query of a request: what its route does not know is refused, as a body's field would be.

A filter that is passed over answers another question than was asked: `?sttaus=failed` would list
everything.
"""

from collections.abc import Iterator
from difflib import get_close_matches
from typing import Annotated

from fastapi import Query, Request
from fastapi.dependencies.models import Dependant
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel

from dreadnode_api.auth.deps import caller

IncludePublic = Annotated[
    bool,
    Query(
        alias="include_public",
        description="Also what others have made public: on this server nothing ever is",
    ),
]
"""A switch of clients of version 2, which adds nothing here and takes nothing away."""


async def only_known(request: Request) -> None:
    """Return if the route of `request` takes every parameter of its query.

    It is the first dependency of a route, so that nothing has begun when it refuses.

    Raises:
        Unauthenticated: it does not, and nobody may know that without a key.
        RequestValidationError: it does not; each such parameter is named.
    """
    if not request.query_params:
        return
    known = list(_names(request.scope["route"].dependant))
    unknown = [name for name in request.query_params if name not in known]
    if unknown:
        await caller(request)
        raise RequestValidationError([_refusal(name, known) for name in unknown])


def _names(dependant: Dependant) -> Iterator[str]:
    """Yield the query parameters of a route, and of all that it depends on."""
    for field in dependant.query_params:
        kind = field.field_info.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            yield from kind.model_fields
        else:
            yield field.alias
    for each in dependant.dependencies:
        yield from _names(each)


def _refusal(name: str, known: list[str]) -> dict[str, object]:
    # Comparing takes time that grows with the name, and no misspelt one is that long.
    near = get_close_matches(name[:100], known, n=1, cutoff=0.7)
    context = {"near": near[0]} if near else {}
    return {"type": "extra_forbidden", "loc": ("query", name), "msg": "", "ctx": context}
