"""Values of flags with a unit: `90s` or `1h30m`, `64K` tokens, `512MiB`, `4GiB`.

Each reader returns the number in the flag's own unit. Other values are returned as they are, for
pydantic to check.
"""

import re

_PART = re.compile(r"(\d+(?:\.\d+)?)\s*(ms|s|m|h|d)", re.IGNORECASE)
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*(K|M|G|T)(?:i?B)?", re.IGNORECASE)
_TOKENS = re.compile(r"(\d+)\s*(K|M)", re.IGNORECASE)
_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_POWERS = {"k": 1, "m": 2, "g": 3, "t": 4}


def read_seconds(value: object) -> object:
    """Return a duration such as `1h30m` in seconds."""
    parts = _PART.findall(value) if isinstance(value, str) else []
    if not parts or _PART.sub("", str(value)).strip():
        return value
    return sum(float(number) * _SECONDS[unit.lower()] for number, unit in parts)


def read_gib(value: object) -> object:
    """Return a size such as `4GiB` in GiB."""
    return _size(value, 3)


def read_mib(value: object) -> object:
    """Return a size such as `512MiB` in MiB."""
    return _size(value, 2)


def read_tokens(value: object) -> object:
    """Return a number of tokens such as `64K`."""
    found = _TOKENS.fullmatch(value.strip()) if isinstance(value, str) else None
    return value if found is None else int(found[1]) * 1024 ** _POWERS[found[2].lower()]


def _size(value: object, power: int) -> object:
    found = _SIZE.fullmatch(value.strip()) if isinstance(value, str) else None
    if found is None:
        return value
    return float(found[1]) * 1024.0 ** (_POWERS[found[2].lower()] - power)
