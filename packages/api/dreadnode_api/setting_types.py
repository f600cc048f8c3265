"""The types of the server's settings, and what a refused value must be."""

import re
from dataclasses import dataclass
from typing import Annotated

from pydantic import BeforeValidator, Field, ValidationInfo
from pydantic_core import ErrorDetails
from pydantic_settings import NoDecode

from dreadnode_api.units import read_bytes, read_days, read_seconds

_CLIENT = re.compile(r"[A-Za-z][\w-]*/[0-9]+(\.[0-9]+)*")
_DRIVERS = {
    "sqlite://": "sqlite+aiosqlite://",
    "postgresql://": "postgresql+asyncpg://",
    "postgres://": "postgresql+asyncpg://",
}


class SettingsError(Exception):
    """A setting that cannot be used; its text is one sentence for a person."""


@dataclass(frozen=True, slots=True)
class Unit:
    """The unit of a number, for the documentation."""

    name: str


def with_driver(url: str, info: ValidationInfo) -> str:
    """Name the asynchronous driver in a plain `sqlite:` or `postgresql:` address."""
    if not url and "data_dir" in info.data:
        return f"sqlite+aiosqlite:///{info.data['data_dir'] / 'dreadnode.db'}"
    for plain, driver in _DRIVERS.items():
        if url.startswith(plain):
            return driver + url.removeprefix(plain)
    if url and not url.startswith(tuple(_DRIVERS.values())):
        raise ValueError("must begin with `sqlite://` or `postgresql://`")
    return url


def client_name(name: str) -> str:
    """Return NAME if it is empty, or a client's name with its version."""
    if name and not _CLIENT.fullmatch(name):
        raise ValueError("must be a name and a version, such as `dreadnode/0.2`")
    return name


def words(value: object) -> object:
    """Return the words of VALUE, which an environment variable separates by spaces."""
    return tuple(value.split()) if isinstance(value, str) else value


Seconds = Annotated[float, BeforeValidator(read_seconds), Unit("seconds"), Field(gt=0)]
MaybeSeconds = Annotated[float, BeforeValidator(read_seconds), Unit("seconds"), Field(ge=0)]
WholeSeconds = Annotated[int, BeforeValidator(read_seconds), Unit("seconds"), Field(gt=0)]
Days = Annotated[float, BeforeValidator(read_days), Unit("days"), Field(ge=0)]
Bytes = Annotated[int, BeforeValidator(read_bytes), Unit("bytes"), Field(gt=0)]
MaybeBytes = Annotated[int, BeforeValidator(read_bytes), Unit("bytes"), Field(ge=0)]
Count = Annotated[int, Field(ge=1)]
CountOrZero = Annotated[int, Field(ge=0)]
Words = Annotated[tuple[str, ...], NoDecode, BeforeValidator(words)]


def must(error: ErrorDetails) -> str:
    """Return what the value of a setting must be, from pydantic's ERROR."""
    value, context = error["input"], error.get("ctx", {})
    bound = context.get("gt", context.get("ge"))
    match error["type"]:
        case "value_error":
            return str(context["error"])
        case "greater_than" | "greater_than_equal" if bound == 0 and float(value) < 0:
            return "must not be negative"
        case "greater_than":
            return f"must be more than {bound}"
        case "greater_than_equal":
            return f"must be at least {bound}"
        case "finite_number":
            return f"must be a finite number, not `{value}`"
        case "literal_error":
            known = " or ".join(f"`{each}`" for each in _listed(context["expected"]) if each)
            return f"must be {known}, not `{value}`"
        case "bool_parsing" | "bool_type":
            return f"must be `true` or `false`, not `{value}`"
        case "float_parsing" | "int_parsing" | "float_type" | "int_type":
            return f"must be a number, not `{value}`"
        case "int_from_float":
            return f"must be a whole number, not `{value}`"
        case _:
            return f"cannot be used: {error['msg']}"


def _listed(expected: str) -> list[str]:
    return re.findall(r"'([^']*)'", expected)
