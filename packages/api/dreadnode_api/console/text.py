"""Filters of the templates: numbers, amounts, times and durations as people read them."""

from collections.abc import Callable
from datetime import datetime
from decimal import Decimal
from typing import Any

from jinja2 import Undefined
from markupsafe import Markup, escape

from dreadnode_api.errors import plain, printable
from dreadnode_api.models.base import now

NONE = "\N{EN DASH}"
"""What stands for a value that does not exist: null, or missing in what was stored."""
_CODE = Markup("<code>{}</code>")


def number(value: float | str | None) -> str:
    """Return a number with commas, and with at most four significant digits after the point.

    Text is returned as it is: a metric that a checkpoint is saved with may be text.
    """
    if value is None:
        return NONE
    if isinstance(value, str):
        return value
    if isinstance(value, int) or float(value).is_integer():
        return f"{int(value):,}"
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.4g}"


def usd(value: str | Decimal | None) -> str:
    """Return an amount in US dollars: to the cent, or to two significant digits below a cent."""
    if value is None:
        return "unknown"
    amount = Decimal(value)
    if not amount or amount >= Decimal("0.1"):
        return f"${amount:,.2f}"
    return f"${Decimal(f'{amount:.2g}'):f}"


def rate(value: str | Decimal | None) -> str:
    """Return a price per million tokens with all of its decimals, and at least two."""
    if value is None:
        return "unknown"
    whole, _, decimals = f"{Decimal(value):f}".partition(".")
    return f"${whole}.{decimals:0<2}"


def size(value: int | None) -> str:
    """Return a number of bytes."""
    if value is None:
        return NONE
    amount = float(value)
    for unit in ("B", "kB", "MB", "GB"):
        if amount < 1000:
            return f"{amount:.0f} {unit}" if unit == "B" else f"{amount:.3g} {unit}"
        amount /= 1000
    return f"{amount:,.3g} TB"


def duration(seconds: float | None) -> str:
    """Return a time span by its two largest units."""
    if seconds is None:
        return NONE
    left = max(0, round(seconds))
    if left < 60:
        return f"{left} s"
    if left < 3600:
        return f"{left // 60} min {left % 60} s" if left < 600 else f"{left // 60} min"
    if left < 86_400:
        return f"{left // 3600} h {left % 3600 // 60} min"
    return f"{left // 86_400} d {left % 86_400 // 3600} h"


def ago(moment: datetime | None) -> str | Markup:
    """Return a time relative to now, which a script of the pages keeps current."""
    if moment is None:
        return NONE
    seconds = (now() - moment).total_seconds()
    words = "just now" if seconds < 5 else f"{duration(seconds)} ago"
    if seconds >= 600:
        words = " ".join(duration(seconds).split()[:2]) + " ago"
    stamp = moment.isoformat(timespec="seconds").replace("+00:00", "Z")
    # Digits and our own words only. `Markup.format` takes many times as long, once a row of a list.
    shown = f"{stamp[:10]} {stamp[11:19]} UTC"
    return Markup(f'<time datetime="{stamp}" title="{shown}">{words}</time>')  # noqa: S704


def sentence(value: str | None) -> Markup:
    """Return a message of the server, with the names between its backticks as code."""
    text = plain(printable(value or ""))
    parts = text.split("`")
    if len(parts) % 2 == 0:
        return escape(text)
    marked = (_CODE.format(part) if n % 2 else part for n, part in enumerate(parts))
    return Markup("").join(marked)


def _lenient(shown: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Return a filter that takes a value missing in what was stored as one that is null."""
    return lambda value: shown(None if isinstance(value, Undefined) else value)


FILTERS: dict[str, Callable[[Any], Any]] = {
    each.__name__: _lenient(each) for each in (number, usd, rate, size, duration, ago, sentence)
}
