"""What the description of a call is made of."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar
from urllib.parse import quote

from dreadnode.config import Scope
from dreadnode.errors import ConfigError, InputError

if TYPE_CHECKING:
    from pydantic import BaseModel

    from dreadnode.http.multipart import Form

T = TypeVar("T")
Param = str | int | float | bool


@dataclass(frozen=True)
class Call(Generic[T]):
    """One request, and how its answer is read.

    Attributes:
        method: The HTTP method.
        path: The path below `/api/v1`.
        parse: Reads the body of a 2xx answer.
        params: The query.
        body: The body, if it is short.
        file: The body, if it is a file; opened anew for each attempt.
        form: The body, if it is several files.
        content_type: What the body is.
        headers: Further headers.
        seconds: How long its answer may take, where that is longer than a client waits for most.
        repeatable: Whether it may be sent again when no answer came: it asks and does not change,
            or the server recognises it the second time.
    """

    method: str
    path: str
    parse: Callable[[bytes], T]
    params: Mapping[str, Param] = field(default_factory=dict)
    body: bytes | None = None
    file: Path | None = None
    form: Form | None = None
    content_type: str = "application/json"
    headers: Mapping[str, str] = field(default_factory=dict)
    repeatable: bool = False
    seconds: float | None = None


def organization(scope: Scope) -> str:
    """Return the path of the organization that SCOPE names.

    Raises:
        ConfigError: It names none.
    """
    if not scope.organization:
        raise ConfigError(
            "no organization is set; use `--organization`, DREADNODE_ORGANIZATION or `dn login`"
        )
    return f"/org/{segment(scope.organization)}"


def workspace(scope: Scope) -> str:
    """Return the path of the workspace that SCOPE names.

    Raises:
        ConfigError: It names none.
    """
    above = organization(scope)
    if not scope.workspace:
        raise ConfigError(
            "no workspace is set; use `--workspace`, DREADNODE_WORKSPACE or `dn login`"
        )
    return f"{above}/ws/{segment(scope.workspace)}"


def segment(value: str) -> str:
    """Quote VALUE so that it stays one segment of a path, whatever stands in it."""
    # A server reads an empty segment and these two as steps through the path, even when quoted.
    if value in ("", ".", ".."):
        raise InputError(f"`{value}` cannot be the name or the id of anything")
    return quote(value, safe="")


def get(
    path: str, parse: Callable[[bytes], T], params: Mapping[str, Param] | None = None
) -> Call[T]:
    """Describe a call that asks and does not change anything."""
    return Call("GET", path, parse, params or {}, repeatable=True)


def given(**params: Param | None) -> dict[str, Param]:
    """Return what has a value."""
    return {name: value for name, value in params.items() if value is not None}


def body_of(request: BaseModel) -> bytes:
    """Return a request as it is sent."""
    return request.model_dump_json(exclude_none=True).encode()


# The types are looked up when an answer has come, and not when this module is imported: pydantic
# takes longer to import than most commands take to run.


def type_of(module: str, name: str) -> Any:
    """Return the type NAME of this package's MODULE."""
    from importlib import import_module

    return getattr(import_module(f"dreadnode.{module}"), name)


def one(module: str, name: str) -> Callable[[bytes], Any]:
    """Return what reads an answer that is one of this type."""
    return lambda body: type_of(module, name).model_validate_json(body)


def many(module: str, name: str) -> Callable[[bytes], Any]:
    """Return what reads an answer that is a list of this type."""

    def parse(body: bytes) -> Any:
        kind, items = type_of(module, name), json.loads(body)
        return [kind.model_validate(item) for item in items]

    return parse
