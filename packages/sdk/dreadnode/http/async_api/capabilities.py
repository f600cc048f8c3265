"""Capabilities: system prompts with a name and a version."""

from __future__ import annotations

from dreadnode.http.async_api.requests import AsyncRequests
from dreadnode.http.calls import (
    Call,
    body_of,
    capability_archive,
    drop_none,
    get,
    organization,
    segment,
)
from dreadnode.lazy_types import wire


class AsyncCapabilityMethods(AsyncRequests):
    """Methods for capabilities."""

    async def push_capability(
        self, name: str, version: str, prompt: str, *, description: str | None = None
    ) -> wire.Capability:
        """Store a system prompt as NAME@VERSION; pushing the same again has no effect."""
        request = wire.CapabilityRequest(prompt=prompt, description=description)
        call = Call(
            "PUT",
            self._capability(name, version),
            wire.Capability.model_validate_json,
            body=body_of(request),
            repeatable=True,
        )
        return await self.send(call)

    async def list_capabilities(
        self, *, search: str | None = None, page: int = 1, limit: int = 20
    ) -> wire.CapabilityPage:
        """List the organization's capabilities, each with its newest version."""
        path = f"{organization(self.scope)}/capabilities"
        params = drop_none(search=search, page=page, limit=limit)
        return await self.send(get(path, wire.CapabilityPage.model_validate_json, params))

    async def get_capability(self, name: str) -> wire.Capability:
        """Return the newest version of a capability."""
        path = f"{organization(self.scope)}/capabilities/{segment(name)}"
        return await self.send(get(path, wire.Capability.model_validate_json))

    async def get_capability_version(self, name: str, version: str) -> wire.Capability:
        """Return one version of a capability."""
        path = self._capability(name, version)
        return await self.send(get(path, wire.Capability.model_validate_json))

    async def delete_capability(self, name: str, version: str) -> wire.Capability:
        """Delete one version of a capability; only the same content can use its name again."""
        path = self._capability(name, version)
        return await self.send(Call("DELETE", path, wire.Capability.model_validate_json))

    async def capability_archive(self, name: str, version: str) -> bytes:
        """Return the files of one version of a capability, as a gzipped tar."""
        return await self.send(capability_archive(self.scope, name, version))

    def _capability(self, name: str, version: str) -> str:
        return f"{organization(self.scope)}/capabilities/{segment(name)}/{segment(version)}"
