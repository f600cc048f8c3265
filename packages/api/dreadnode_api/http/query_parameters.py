"""Query parameters: one that the route does not have is refused, as an unknown field of a body is.

A filter that is ignored answers another question: `?sttaus=failed` would list every job.
"""

from collections.abc import Iterator
from difflib import get_close_matches
from typing import Annotated

from fastapi import Query, Request
from fastapi.dependencies.models import Dependant
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel

MAX_UNKNOWN = 50
"""How many unknown parameters are named: each is compared with the known ones."""

IncludePublic = Annotated[
    bool,
    Query(
        alias="include_public",
        description="Include what others have made public; on this server nothing is public",
    ),
]
"""A parameter of clients of version 2 that has no effect here."""


async def refuse_unknown(request: Request) -> None:
    """Return if the route of REQUEST has every parameter of its query.

    It is the first dependency of a route, so nothing has been done when it refuses.

    Raises:
        RequestValidationError: each unknown parameter is an error.
    """
    if not request.query_params:
        return
    known = list(_names(request.scope["route"].dependant))
    unknown = [name for name in request.query_params if name not in known][:MAX_UNKNOWN]
    if unknown:
        raise RequestValidationError([_error(name, known) for name in unknown])


def _names(dependant: Dependant) -> Iterator[str]:
    """Yield the query parameters of a route and of its dependencies."""
    for field in dependant.query_params:
        kind = field.field_info.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            yield from kind.model_fields
        else:
            yield field.alias
    for each in dependant.dependencies:
        yield from _names(each)


def _error(name: str, known: list[str]) -> dict[str, object]:
    # Comparing takes time that grows with the length, and no misspelt name is this long.
    near = get_close_matches(name[:100], known, n=1, cutoff=0.7)
    context = {"near": near[0]} if near else {}
    return {"type": "extra_forbidden", "loc": ("query", name), "msg": "", "ctx": context}
