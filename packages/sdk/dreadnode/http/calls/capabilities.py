"""Capabilities: system prompts with a name and a version."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dreadnode.config import Scope
from dreadnode.http.calls.call import Call, body_of, get, given, one, organization, segment, type_of

if TYPE_CHECKING:
    from dreadnode.wire import Capability, CapabilityPage


def push_capability(
    scope: Scope, /, name: str, version: str, prompt: str, *, description: str | None = None
) -> Call[Capability]:
    """Store a system prompt as NAME@VERSION; the same again changes nothing."""
    request = type_of("wire", "CapabilityRequest")(prompt=prompt, description=description)
    return Call(
        "PUT",
        f"{organization(scope)}/capabilities/{segment(name)}/{segment(version)}",
        one("wire", "Capability"),
        body=body_of(request),
        repeatable=True,
    )


def list_capabilities(
    scope: Scope, /, *, search: str | None = None, page: int = 1, limit: int = 20
) -> Call[CapabilityPage]:
    """The organization's capabilities, each by its newest version."""
    params = given(search=search, page=page, limit=limit)
    return get(f"{organization(scope)}/capabilities", one("wire", "CapabilityPage"), params)


def get_capability(scope: Scope, /, name: str) -> Call[Capability]:
    """The newest version of a capability."""
    path = f"{organization(scope)}/capabilities/{segment(name)}"
    return get(path, one("wire", "Capability"))


def get_capability_version(scope: Scope, /, name: str, version: str) -> Call[Capability]:
    """One version of a capability."""
    path = f"{organization(scope)}/capabilities/{segment(name)}/{segment(version)}"
    return get(path, one("wire", "Capability"))


def delete_capability(scope: Scope, /, name: str, version: str) -> Call[Capability]:
    """Delete one version of a capability; nothing else can ever be pushed under its name."""
    path = f"{organization(scope)}/capabilities/{segment(name)}/{segment(version)}"
    return Call("DELETE", path, one("wire", "Capability"))


def capability_archive(scope: Scope, /, name: str, version: str) -> Call[bytes]:
    """The files of one version of a capability, as a gzipped tar."""
    path = f"{organization(scope)}/capabilities/{segment(name)}/{segment(version)}/archive"
    return get(path, bytes)
