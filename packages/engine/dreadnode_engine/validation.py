"""Request bodies checked by the SDK's own types, and what is wrong with one in a sentence."""

from typing import TypeVar

from pydantic import BaseModel, ValidationError

from dreadnode_engine.errors import Refused

M = TypeVar("M", bound=BaseModel)


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
