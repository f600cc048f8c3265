"""Request bodies: read, checked by the SDK's own types, and refused in a sentence."""

import json
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError
from starlette.requests import Request as HttpRequest

from dreadnode_engine.errors import Refused
from dreadnode_engine.http.protobuf import MAX_BODY

M = TypeVar("M", bound=BaseModel)

MAX_SEQ = 2**62
"""Sequence numbers are below this."""


def parse_body(model: type[M], body: bytes) -> M:
    """Parse the JSON in BODY as MODEL, or raise `Refused`."""
    try:
        return model.model_validate_json(body)
    except ValidationError as error:
        raise Refused(explain(error)) from None


def explain(error: ValidationError) -> str:
    """Say what is wrong first in a body that does not fit, without repeating its values."""
    first = error.errors(include_url=False, include_input=False, include_context=False)[0]
    where = ".".join(str(part) for part in first["loc"])
    return f"The field `{where}` is wrong: {first['msg']}" if where else f"{first['msg']}"


async def body_of(request: HttpRequest) -> bytes:
    """Read the body of REQUEST, or refuse one that is too large before it has all come."""
    parts, size = [], 0
    async for part in request.stream():
        size += len(part)
        if size > MAX_BODY:
            raise Refused(f"The body is larger than {MAX_BODY // 2**20} MiB; send smaller batches")
        parts.append(part)
    return b"".join(parts)


async def fields_of(request: HttpRequest) -> dict[str, Any]:
    """Read the body of REQUEST as a JSON object."""
    return json_object(await body_of(request))


def json_object(body: bytes) -> dict[str, Any]:
    """Parse BODY as a JSON object, or refuse it."""
    try:
        fields = json.loads(body)
    except (ValueError, RecursionError):
        raise Refused("The body is not JSON") from None
    if not isinstance(fields, dict):
        raise Refused("The body must be a JSON object")
    return fields


def text_in(fields: dict[str, Any], name: str) -> str:
    """Return the text NAME of a body, or refuse."""
    value = fields.get(name)
    if not isinstance(value, str) or not value or not value.isprintable():
        raise Refused(f"The field `{name}` must be a text")
    return value


def check_adamw(optimizer: str) -> None:
    """Refuse an optimizer that this engine does not have."""
    if optimizer != "adamw":
        raise Refused(f"This engine trains with AdamW; it has no optimizer `{optimizer}`")


def check_number(name: str, number: int) -> None:
    """Refuse a client's own NUMBER of a run or sampler that could not stand in its id."""
    if not 0 <= number < MAX_SEQ:
        raise Refused(f"The field `{name}` must be a whole number from 0 to {MAX_SEQ - 1}")
