"""What a form sent, as values and as the request of an API route."""

from typing import Any, TypeVar

from fastapi import Request
from fastapi.exceptions import RequestValidationError
from pydantic import TypeAdapter, ValidationError

from dreadnode_api.http.error_responses import from_validation

T = TypeVar("T")


async def texts(request: Request) -> dict[str, str]:
    """Return the values of the form that REQUEST sends, without those that are not filled in."""
    return {
        name: value.replace("\r\n", "\n")
        for name, value in (await request.form()).items()
        if isinstance(value, str) and value.strip()
    }


def number(text: str) -> float | str | None:
    """Return TEXT as a number if it is one, or None if it is blank; the route refuses the rest."""
    try:
        return float(text) if text.strip() else None
    except ValueError:
        return text.strip()


def validated(kind: TypeAdapter[T], body: Any) -> T:
    """Return BODY as the request of an API route.

    Raises:
        ApiError: a value is not possible, in the words of the route.
    """
    try:
        return kind.validate_python(body)
    except ValidationError as error:
        problems = [{**each, "loc": ("body", *each["loc"])} for each in error.errors()]
        raise from_validation(RequestValidationError(problems), "application/json") from None
