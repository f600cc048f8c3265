"""dreadnode training: the catalog, the typed client and the `dn` command."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from dreadnode.version import __version__

if TYPE_CHECKING:
    from dreadnode.http.async_api.client import AsyncApiClient
    from dreadnode.http.sync_api.client import ApiClient
    from dreadnode.local_server.export import export_job

__all__ = ["ApiClient", "AsyncApiClient", "__version__", "export_job"]


_MODULES = {
    "ApiClient": "dreadnode.http.sync_api.client",
    "AsyncApiClient": "dreadnode.http.async_api.client",
    "export_job": "dreadnode.local_server.export",
}


def __getattr__(name: str) -> Any:
    # The clients import httpx2, which takes ten times as long as everything else.
    if name in _MODULES:
        return getattr(import_module(_MODULES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
