"""Adapters that were trained elsewhere, uploaded to the engine so that jobs can start from them.

A runtime process (`python -m dreadnode_runtime upload`) brings the files into a layout that the
engine takes, and sends them. The engine compares them with the base model.
"""

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any

from anyio import to_thread
from fastapi import Request
from pydantic import Field

from dreadnode_api.auth.deps import WorkspaceScope
from dreadnode_api.blob_store import discard
from dreadnode_api.checkpoints.adapters import FILES
from dreadnode_api.db import Database
from dreadnode_api.engine_client import Capabilities
from dreadnode_api.errors import ApiError, GatewayTimeout, Invalid, Malformed
from dreadnode_api.fair_queue import FairQueue
from dreadnode_api.http.multipart import HEADERS_BYTES, bounded, content_type, parts
from dreadnode_api.http.schemas import Response, Timestamp
from dreadnode_api.models.adapters import UploadedAdapter
from dreadnode_api.models.base import new_id, now
from dreadnode_api.runtime_processes.command import run_command
from dreadnode_api.settings import Settings

KEPT = timedelta(days=30)
"""How long an uploaded adapter is kept."""
MAX_WAITING = 4
"""How many uploads of one organization may wait for their turn."""


class AdapterView(Response):
    """An uploaded adapter."""

    path: str = Field(description="Its path on the engine, for `from_adapter`")
    model: str
    lora_rank: int
    train_mlp: bool
    train_attn: bool
    train_unembed: bool
    new_layers: list[str] = Field(
        description="Layers that the adapter has no weights for; they start as new ones"
    )
    expires_at: Timestamp


class AdapterUploads:
    """Uploads adapters to the engine, a bounded number at once."""

    def __init__(self, settings: Settings, database: Database) -> None:
        self._settings = settings
        self._database = database
        self._queue = FairQueue(
            settings.exports_at_once,
            "uploads of adapters",
            wait_seconds=settings.export_timeout,
            waiting=MAX_WAITING,
        )

    async def upload(
        self, scope: WorkspaceScope, model: str, engine: Capabilities, folder: Path
    ) -> AdapterView:
        """Upload the adapter in FOLDER, which is for MODEL, and record it.

        Raises:
            Invalid: the engine does not train the model, or the adapter is not one of it.
            BadGateway: the engine does not answer.
            GatewayTimeout: it takes too long.
            TooManyRequests: too many uploads of the organization wait.
        """
        served = engine.models.get(model)
        if served is None or not served.can_train:
            raise Invalid(
                f"This server's engine has no weights for `{model[:200]}`, so that an adapter of "
                "it cannot be compared with them",
                "model",
            )
        lineage = new_id()
        request = {
            "base_model": model,
            "ttl_seconds": int(KEPT.total_seconds()),
            "own_engine": served.uploads,
        }
        try:
            async with asyncio.timeout(self._settings.export_timeout):
                async with self._queue.slot(scope.org_id):
                    done = await run_command(self._settings, "upload", request, lineage, folder)
        except TimeoutError:
            raise GatewayTimeout(
                f"The adapter was not uploaded within {self._settings.export_timeout:.0f} s; try "
                "again when the engine is less busy, or raise `DREADNODE_EXPORT_TIMEOUT` on the "
                "server"
            ) from None
        shape = {name: done[name] for name in ("rank", "train_mlp", "train_attn", "train_unembed")}
        row = UploadedAdapter(
            path=done["path"],
            org_id=scope.org_id,
            lineage=lineage,
            base_model=model,
            created_by=scope.caller.user_id,
            expires_at=now() + KEPT,
            **shape,
        )
        async with self._database.writing() as session:
            session.add(row)
        return AdapterView.of(row, model=model, lora_rank=row.rank, new_layers=done["new_layers"])


async def receive(request: Request, folder: Path, limit: int) -> None:
    """Write the files of an adapter in the body of REQUEST, a part for each, into FOLDER.

    Raises:
        Malformed: the body has more than LIMIT bytes, or is not a form.
        Invalid: a file is missing, or has another name.
    """
    kind, boundary = content_type(request)
    if kind != "multipart/form-data":
        raise Malformed("Send the files of the adapter as the parts of multipart/form-data")
    body = request.stream()
    received: set[str] = set()
    try:
        async for part in parts(bounded(body, limit + HEADERS_BYTES), boundary):
            if part.name not in FILES or part.name in received:
                raise Invalid(f"Send one part for each of {' and '.join(FILES)}, and no other")
            received.add(part.name)
            await _write(folder / part.name, part.data)
    except ApiError:
        await discard(body, limit)
        raise
    if missing := [name for name in FILES if name not in received]:
        raise Invalid(f"The adapter lacks {missing[0]}; send both files that PEFT writes")


async def _write(path: Path, data: AsyncIterator[bytes]) -> None:
    file: Any
    with path.open("wb") as file:
        async for chunk in data:
            await to_thread.run_sync(file.write, chunk)
