"""Pages of listings."""

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from starlette.requests import Request as HttpRequest
from starlette.responses import JSONResponse, Response

from dreadnode_engine.errors import Refused

T = TypeVar("T")

MAX_PAGE = 1000
"""The most items of one page."""


def read_page(request: HttpRequest, limit: int) -> tuple[int, int]:
    """Read `limit`, which is LIMIT if absent, and `offset` of a listing."""
    values = []
    for name, default, most in (("limit", limit, MAX_PAGE), ("offset", 0, 10**9)):
        text = request.query_params.get(name, str(default))
        if not (text.isascii() and text.isdigit() and len(text) < 20) or int(text) > most:
            raise Refused(f"`{name}` must be a whole number from 0 to {most}")
        values.append(int(text))
    return values[0], values[1]


def page_of(
    request: HttpRequest, field: str, items: Sequence[T], limit: int, show: Callable[[T], Any]
) -> Response:
    """Return the page of ITEMS that REQUEST asks for, under FIELD, each as SHOW describes it."""
    count, offset = read_page(request, limit)
    page = [show(item) for item in items[offset : offset + count]]
    return JSONResponse({field: page, "cursor": cursor(count, offset, len(items))})


def cursor(limit: int, offset: int, total: int) -> dict[str, int]:
    """Return where a page lies among TOTAL items."""
    return {"limit": limit, "offset": offset, "total_count": total}
