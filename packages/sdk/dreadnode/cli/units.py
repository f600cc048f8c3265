"""Units on the command line: durations such as `1h30m`, token counts such as `64K`, dollars."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Any

from dreadnode.errors import InputError

_PART = re.compile(r"(\d+(?:\.\d+)?)\s*(ms|s|m|h|d)", re.IGNORECASE)
_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


def seconds(type_: Any, tokens: Sequence[Any]) -> float:
    """Return the seconds that a flag names: a converter for cyclopts."""
    return _duration(tokens[0], 1.0, "seconds, 0 or more")


def days(type_: Any, tokens: Sequence[Any]) -> float:
    """Return the days that a flag names: a converter for cyclopts."""
    number = _duration(tokens[0], _SECONDS["d"], "days, above 0")
    if number == 0:
        raise _refusal(tokens[0], "days, above 0")
    return number


def token_count(type_: Any, tokens: Sequence[Any]) -> int:
    """Return the number of tokens that a flag names: a converter for cyclopts."""
    found = re.fullmatch(r"(\d+)\s*([km]?)", tokens[0].value.strip(), re.IGNORECASE)
    if found is None:
        raise InputError(
            f"`{tokens[0].keyword}` must be a number of tokens such as `32768` or `32K`, "
            f"not `{tokens[0].value}`"
        )
    return int(found[1]) * {"": 1, "k": 1 << 10, "m": 1 << 20}[found[2].lower()]


def byte_size(number: int) -> str:
    """Return a number of bytes with a unit, such as `1.5 GiB`."""
    for power, unit in ((3, "GiB"), (2, "MiB"), (1, "KiB")):
        if number >= 1024**power:
            return f"{number / 1024**power:.1f} {unit}"
    return f"{number} B"


def dollars(type_: Any, tokens: Sequence[Any]) -> float:
    """Return the US dollars that a flag names: a converter for cyclopts."""
    text = tokens[0].value.strip().removeprefix("$")
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not (math.isfinite(number) and number > 0):
        # An argument without a flag has no keyword.
        name = f"`{tokens[0].keyword}`" if tokens[0].keyword else "the amount"
        raise InputError(f"{name} must be a number of US dollars above 0, not `{tokens[0].value}`")
    return number


def _duration(token: Any, unit: float, name: str) -> float:
    text = token.value.strip()
    try:
        number = float(text)
    except ValueError:
        number = sum(float(n) * _SECONDS[each.lower()] for n, each in _PART.findall(text)) / unit
        if not text or _PART.sub("", text).strip():
            number = math.nan
    if not (math.isfinite(number) and number >= 0):
        raise _refusal(token, name)
    return number


def _refusal(token: Any, name: str) -> InputError:
    return InputError(
        f"`{token.keyword}` must be a number of {name}, or a duration such as `90s`, `1h30m` or "
        f"`7d`, not `{token.value}`"
    )
