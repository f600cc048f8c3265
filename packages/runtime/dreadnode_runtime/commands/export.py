"""Exports a checkpoint: `python -m dreadnode_runtime export`, one JSON object in, one out.

The adapter is written into the working directory as PEFT loads it. Only a copy that could be
trained can be exported, so the engine makes one for as long as this takes; and what it exports is
deleted there when it has been fetched, or expires.

The answer is `{"ok": true, "files": […]}`, or `{"ok": false, "fault": …, "error": …}` as in `chat`.
"""

import asyncio
import json
import logging
from contextlib import suppress
from pathlib import Path

import httpx
import tinker
from pydantic import BaseModel, ConfigDict

from dreadnode_runtime.backend.availability import while_there
from dreadnode_runtime.backend.tinker_trainer import copied, engine_answers, session, translated
from dreadnode_runtime.commands.responses import Answer, answer_of
from dreadnode_runtime.errors import RuntimeFault, TryAgain
from dreadnode_runtime.jobs import adapter

log = logging.getLogger(__name__)

PATIENCE = 30.0
"""Seconds for which the engine may be away: somebody is waiting for the answer."""
KEPT_SECONDS = 3600
"""How long the engine keeps an export that nobody could delete; the least that it takes."""
DELETING = 10.0
"""Seconds that deleting it may take."""


class Wish(BaseModel):
    """What is to be exported.

    Attributes:
        checkpoint: Path of the weights, which were saved to go on training from.
        name: What the export is called, on the engine and in messages.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    checkpoint: str
    name: str


async def export(wish: Wish, folder: Path) -> Answer:
    """Write the adapter that WISH names into FOLDER, and say which files it has."""
    try:
        # To begin a session, the SDK waits for as long as it takes.
        if not await engine_answers():
            raise TryAgain("The engine does not answer; try again when it does")
        async with session({}) as service:
            work = _fetched(service, wish, folder)
            await translated(while_there(work, engine_answers, PATIENCE))
    except RuntimeFault as fault:
        return answer_of(fault)
    return {"ok": True, "files": list(adapter.FILES)}


async def answer(question: str, folder: Path) -> str:
    """Return the answer to the JSON text QUESTION, as JSON text."""
    return json.dumps(await export(Wish.model_validate_json(question), folder))


async def _fetched(service: tinker.ServiceClient, wish: Wish, folder: Path) -> None:
    client = await translated(asyncio.to_thread(copied, service, wish.checkpoint), making=True)
    saved = await client.save_weights_external(wish.name, ttl_seconds=KEPT_SECONDS)
    rest = await asyncio.to_thread(tinker.RestClient)
    try:
        urls = (await rest.get_external_weights_urls(saved.path)).urls
        await adapter.fetch(urls, folder, wish.name)
    finally:
        await _delete(rest, saved.path)


async def _delete(rest: tinker.RestClient, path: str) -> None:
    """Give the engine its room back; what cannot be deleted now expires by itself."""
    with suppress(tinker.TinkerError, httpx.HTTPError, OSError, RuntimeError, TimeoutError):
        async with asyncio.timeout(DELETING):
            await rest.delete_checkpoint_from_tinker_path(path)
            return
    log.warning("the export %s was not deleted; it expires in %d s", path, KEPT_SECONDS)
