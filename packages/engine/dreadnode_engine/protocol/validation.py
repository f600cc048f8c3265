"""Request bodies: checked by the SDK's own types, and refused in one sentence."""

import json
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from dreadnode_engine.errors import Refused

M = TypeVar("M", bound=BaseModel)

MAX_SEQ = 2**62
"""Sequence numbers are below this."""


def parse_body(model: type[M], body: bytes) -> M:
    """Parse the JSON in BODY as MODEL, or raise `Refused`."""
    try:
        return model.model_validate_json(body)
    except ValidationError as error:
        raise Refused(describe_error(error)) from None


def describe_error(error: ValidationError) -> str:
    """Return what is wrong first in a body, without its values."""
    first = error.errors(include_url=False, include_input=False, include_context=False)[0]
    where = ".".join(str(part) for part in first["loc"])
    return f"The field `{where}` is wrong: {first['msg']}" if where else f"{first['msg']}"


def json_object(body: bytes) -> dict[str, Any]:
    """Parse BODY as a JSON object, or refuse it."""
    try:
        fields = json.loads(body)
    except (ValueError, RecursionError):
        raise Refused("The body is not JSON") from None
    if not isinstance(fields, dict):
        raise Refused("The body must be a JSON object")
    return fields


def string_field(fields: dict[str, Any], name: str) -> str:
    """Return the string NAME of a body, or refuse it."""
    value = fields.get(name)
    if not isinstance(value, str) or not value or not value.isprintable():
        raise Refused(f"The field `{name}` must be a printable string that is not empty")
    return value


def check_adamw(optimizer: str) -> None:
    """Refuse any optimizer but AdamW."""
    if optimizer != "adamw":
        raise Refused(
            f"This engine trains with AdamW; it does not have the optimizer `{optimizer}`"
        )


def check_number(name: str, number: int) -> None:
    """Refuse a client's NUMBER of a run or sampler that cannot be part of its id."""
    if not 0 <= number < MAX_SEQ:
        raise Refused(f"The field `{name}` must be an integer from 0 to {MAX_SEQ - 1}")
