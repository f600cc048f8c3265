"""Exports a checkpoint: `python -m dreadnode_runtime export`, one JSON object in, one out.

The adapter is written into the working directory in PEFT's format, with a short model card. The
engine exports only runs that it has in memory, so it loads the checkpoint into a temporary run; the
export is deleted there after the download, or expires.

The response is `{"ok": true, "files": […]}`, or `{"ok": false, "fault": …, "error": …}` as in
`chat`.
"""

import asyncio
import logging
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import tinker
from pydantic import BaseModel, ConfigDict

from dreadnode_runtime.backend import adapter
from dreadnode_runtime.backend.adapter_layout import without_variant
from dreadnode_runtime.backend.availability import while_available
from dreadnode_runtime.backend.tinker_trainer import (
    engine_is_available,
    load_weights,
    rest_client,
    session,
    translate_errors,
)
from dreadnode_runtime.commands.responses import Response, response_of

log = logging.getLogger(__name__)

CARD = "README.md"
MAX_OUTAGE = 30.0
"""Seconds that the engine may be unreachable: a user waits for the response."""
EXPIRES_SECONDS = 3600
"""Lifetime of an export that could not be deleted; the engine's minimum."""
DELETE_SECONDS = 10.0
"""Time limit of deleting the export."""


class ExportRequest(BaseModel):
    """What to export.

    Attributes:
        checkpoint: Path of a training checkpoint.
        name: Name of the export, on the engine and in messages.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    checkpoint: str
    name: str


async def run(request: str, folder: Path) -> str:
    """Write the adapter that the JSON text REQUEST names into FOLDER, and return the response."""
    parsed = ExportRequest.model_validate_json(request)
    return await response_of(lambda: translate_errors(_export(parsed, folder)))


async def _export(request: ExportRequest, folder: Path) -> Response:
    async with session({}) as service:
        download = _download(service, request, folder)
        await while_available(download, engine_is_available, MAX_OUTAGE)
    return {"files": [*adapter.FILES, CARD]}


async def _download(service: tinker.ServiceClient, request: ExportRequest, folder: Path) -> None:
    client = await translate_errors(
        asyncio.to_thread(load_weights, service, request.checkpoint), creating=True
    )
    saved = await client.save_weights_external(request.name, ttl_seconds=EXPIRES_SECONDS)
    rest = await rest_client()
    try:
        urls = (await rest.get_external_weights_urls(saved.path)).urls
        model = client.get_info().model_data
        notes = await adapter.fetch(urls, folder, request.name, model.tokenizer_id)
        card = _card(request, without_variant(model.model_name or ""), notes)
        (folder / CARD).write_text(card, encoding="utf-8")
    finally:
        await _delete(rest, saved.path)


def _card(request: ExportRequest, model: str, notes: Sequence[str]) -> str:
    """Return the model card of a checkpoint, with what PEFT would not load of it."""
    lines = [
        *("---", f"base_model: {model}", "library_name: peft", "tags:", "- lora", "---", ""),
        f"# Checkpoint {request.name}",
        "",
        f"A LoRA adapter (PEFT) of `{model}`: the weights of `{request.checkpoint}`.",
        *(["", *(f"- {note}" for note in notes)] if notes else []),
    ]
    return "\n".join(lines) + "\n"


async def _delete(rest: tinker.RestClient, path: str) -> None:
    """Delete the export on the engine; if that fails, it expires."""
    with suppress(tinker.TinkerError, OSError, RuntimeError, TimeoutError):
        async with asyncio.timeout(DELETE_SECONDS):
            await rest.delete_checkpoint_from_tinker_path(path)
            return
    log.warning("the export %s was not deleted; it expires in %d s", path, EXPIRES_SECONDS)
