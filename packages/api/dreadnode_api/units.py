"""Byte sizes and durations as people write them: `64K`, `2GiB`, `90s`, `1h30m`, `30d`."""

import re

_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([KMGT]?)(iB|B)?", re.IGNORECASE)
_PART = re.compile(r"(\d+(?:\.\d+)?)\s*(ms|s|m|h|d)", re.IGNORECASE)
_NUMBER = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)(e[+-]?\d+)?|[+-]?(inf|infinity|nan)", re.IGNORECASE)
_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
DAY = 86400.0


def read_bytes(value: object) -> object:
    """Return VALUE in bytes if it is a size such as `64K`; a number is returned as it is.

    `K`, `M`, `G` and `T` are powers of 1024, with or without `iB`; `KB` to `TB` are powers of 1000.

    Raises:
        ValueError: It is neither.
    """
    if not isinstance(value, str) or _NUMBER.fullmatch(value.strip()):
        return value
    found = _SIZE.fullmatch(value.strip())
    if found is None:
        raise ValueError("must be a number of bytes, or a size such as `64K` or `2GiB`")
    number, prefix, suffix = found[1], found[2].upper(), (found[3] or "").upper()
    base = 1000 if prefix and suffix == "B" else 1024
    exact = float(number) * base ** " KMGT".index(prefix or " ")
    if exact != int(exact):
        raise ValueError("must be a whole number of bytes")
    return int(exact)


def read_seconds(value: object) -> object:
    """Return VALUE in seconds if it is a duration such as `1h30m`; a number is returned as it is.

    Raises:
        ValueError: It is neither.
    """
    return _duration(value, 1.0, "seconds")


def read_days(value: object) -> object:
    """Return VALUE in days if it is a duration such as `36h`; a number is returned as it is.

    Raises:
        ValueError: It is neither.
    """
    return _duration(value, DAY, "days")


def _duration(value: object, unit: float, name: str) -> object:
    if not isinstance(value, str) or _NUMBER.fullmatch(value.strip()):
        return value
    text = value.strip()
    if not text or _PART.sub("", text).strip():
        raise ValueError(
            f"must be a number of {name}, or a duration such as `90s`, `1h30m` or `7d`"
        )
    return sum(float(n) * _SECONDS[each.lower()] for n, each in _PART.findall(text)) / unit
