"""The base of every request and every response, and the types of their fields."""

import math
import re
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Annotated, Any, Self

from pydantic import (
    AfterValidator,
    AwareDatetime,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    model_validator,
)

from dreadnode_api.errors import plain

MAX_DEPTH = 32
MAX_INTEGER = 2**53
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_DAY = re.compile(r"\d{4}-\d\d-\d\d[Tt ]")


class Request(BaseModel):
    """What a client sends. A misspelt field is an error, and so is a value of another type.

    Values are not converted: `true` is not a learning rate of 1, and `"no"` is not a boolean.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _storable(cls, value: Any) -> Any:
        for problem in storage_problems(value):
            raise ValueError(problem)
        return value


class Response(BaseModel):
    """What the API sends, also validated from a row of the database.

    A new field must not break an old client.
    """

    model_config = ConfigDict(extra="ignore", frozen=True, from_attributes=True)

    @classmethod
    def of(cls, source: object, **more: Any) -> Self:
        """Return the response with MORE, and with what SOURCE has of the other fields."""
        missing = object()
        names = cls.model_fields.keys() - more.keys()
        found = {name: getattr(source, name, missing) for name in names}
        own = {name: value for name, value in found.items() if value is not missing}
        return cls.model_validate(own | more)


def _not_a_number(value: Any) -> Any:
    """Return VALUE if it is not a bare number, which pydantic reads as seconds since 1970."""
    if isinstance(value, str) and _DAY.match(value) is None:
        raise ValueError("give a time with its offset, such as 2026-11-22T03:00:00Z")
    return value


def _in_utc(moment: datetime) -> datetime:
    try:
        return moment.astimezone(UTC)
    except OverflowError:
        raise ValueError("this time lies before the first or after the last year") from None


TimestampInput = Annotated[AwareDatetime, BeforeValidator(_not_a_number), AfterValidator(_in_utc)]
"""A time in a request: ISO 8601 with an offset."""

NO_MARKUP = r"^[^\[\]\x00-\x1f\x7f-\x9f]*$"
"""How OpenAPI describes the text that `single_line` accepts."""


def single_line(text: str) -> str:
    """Return TEXT if every client can show it, including those that read brackets as markup."""
    if "[" in text or "]" in text:
        raise ValueError("remove the square brackets; some clients read them as markup")
    if _CONTROL.search(text):
        raise ValueError("remove line breaks and control characters; give one line")
    return text


Timestamp = Annotated[
    datetime,
    PlainSerializer(
        lambda m: m.astimezone(UTC).isoformat().replace("+00:00", "Z"), return_type=str
    ),
]
"""A time in a response: ISO 8601 with a `Z`."""

SingleLine = Annotated[
    str,
    AfterValidator(single_line),
    Field(min_length=1, json_schema_extra={"pattern": NO_MARKUP}),
]
"""One line of text for people, without markup and control characters."""

Storable = Annotated[str, Field(min_length=1, json_schema_extra={"pattern": r"^[^\x00]*$"})]
"""Any text; `Request` refuses null characters."""

Plain = Annotated[str, AfterValidator(plain)]
"""Text for people in a response, without markup and control characters."""


def storage_problems(value: Any) -> Iterator[str]:
    """Yield why VALUE, parsed from JSON, could not be stored in either database.

    Neither stores a null character; UTF-8 has no lone surrogates; JSON has neither infinity nor
    NaN; and JavaScript clients round numbers beyond 2**53.
    """
    stack = [(value, 0)]
    while stack:
        item, depth = stack.pop()
        if depth > MAX_DEPTH:
            yield f"the body is nested more than {MAX_DEPTH} levels deep"
        elif isinstance(item, str):
            if "\0" in item:
                yield "text must not contain null characters"
            if any("\ud800" <= c <= "\udfff" for c in item):
                yield "text must not contain lone surrogates"
        elif isinstance(item, float):
            if not math.isfinite(item):
                yield "numbers must be finite"
        elif isinstance(item, int):
            if abs(item) > MAX_INTEGER:
                yield "whole numbers must lie within 2**53 of zero"
        elif isinstance(item, dict):
            stack += [(part, depth + 1) for pair in item.items() for part in pair]
        elif isinstance(item, list):
            stack += [(part, depth + 1) for part in item]
