"""Pages of listings."""

from starlette.requests import Request as HttpRequest

from dreadnode_engine.errors import Refused

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


def cursor(limit: int, offset: int, total: int) -> dict[str, int]:
    """Return where a page lies among TOTAL items."""
    return {"limit": limit, "offset": offset, "total_count": total}
