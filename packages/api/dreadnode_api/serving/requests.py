"""What both protocols turn a request into: the lines that a serving process reads."""

import secrets
from collections.abc import Mapping
from typing import Any

MAX_COMPLETIONS = 128
MAX_TOKENS = 1_000_000


def generation(**fields: Any) -> dict[str, Any]:
    """Return a request to a serving process, without FIELDS that are None.

    A request without a seed gets a random one.
    """
    found = {name: value for name, value in fields.items() if value is not None}
    return {"seed": secrets.randbelow(2**31), **found}


def refuse_unless(value: Any, neutral: tuple[Any, ...], name: str, what: str = "") -> None:
    """Return if VALUE is None or one of NEUTRAL, which change nothing.

    Raises:
        ValueError: it would have an effect, which this server does not have.
    """
    if value is None or value in neutral:
        return
    raise ValueError(what or f"`{name}` is not supported; leave it out")


def tool_call(call: Mapping[str, Any], number: int) -> tuple[str, str, str]:
    """Return the id, the name and the arguments of a CALL; most models sample no id."""
    arguments = call.get("arguments") or "{}"
    return str(call.get("id") or f"call_{secrets.token_hex(8)}_{number}"), call["name"], arguments
