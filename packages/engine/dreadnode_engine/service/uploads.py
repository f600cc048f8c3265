"""Uploads of adapters that were trained elsewhere: started, filled with files, and finished.

    start ──► PUT each file ──► finish: checked, and a checkpoint of the kind `external`
      │
      └── not finished within an hour: deleted

An upload is in the journal from its start, and its files are complete or absent, so a client may
repeat any step after a kill.
"""

import asyncio
import errno
import secrets
import shutil
import time
from collections.abc import AsyncIterator

from pydantic import BaseModel, ConfigDict
from tinker.types import LoraConfig

from dreadnode_engine.compute import memory
from dreadnode_engine.compute.adapters import CONFIG_FILE, WEIGHTS_FILE
from dreadnode_engine.compute.foreign_adapter import read_foreign
from dreadnode_engine.errors import NotFound, Overloaded, RateLimited, Refused
from dreadnode_engine.protocol.validation import parse_body
from dreadnode_engine.scheduling.snapshots import shape_of
from dreadnode_engine.service.engine import Engine
from dreadnode_engine.service.keys import Principal
from dreadnode_engine.service.training import checked_shape
from dreadnode_engine.settings import MIB
from dreadnode_engine.state import queries
from dreadnode_engine.state.checkpoint_files import CheckpointPath, write_folder
from dreadnode_engine.state.records import Checkpoint, Upload

FILES = (CONFIG_FILE, WEIGHTS_FILE)
OPEN_SECONDS = 3600
"""How long an upload may take from its start to its end."""
MAX_OPEN = 16
"""Uploads of one owner that are not finished."""
MAX_OPEN_IN_ALL = 256
MAX_CONFIG = MIB
SLACK = 64 * MIB
"""What a file of weights may have besides the weights, and what stays free on the disk."""
WRITE_BYTES = 4 * MIB
NAME = "adapter"
"""The last part of the path of an uploaded checkpoint."""


class StartUpload(BaseModel):
    """The body of `external_weights_upload_start`."""

    model_config = ConfigDict(extra="forbid", protected_namespaces=())

    base_model: str
    lora_config: LoraConfig
    destination_project_id: str | None = None


async def start_upload(engine: Engine, who: Principal, body: bytes) -> Upload:
    """Return a new upload of an adapter.

    Raises:
        Refused: this engine cannot train such an adapter.
        RateLimited: its owner has too many uploads that are not finished.
    """
    fields = parse_body(StartUpload, body)
    if fields.destination_project_id:
        raise Refused("Leave out `destination_project_id`: this engine has no projects")
    served = engine.base_model(fields.base_model)
    shape = checked_shape(fields.lora_config, seed=0)
    now = time.time()
    upload = Upload(
        id=f"upload-{secrets.token_hex(16)}",
        owner=who.subject,
        base_model=served.id,
        created=now,
        expires=now + OPEN_SECONDS,
        base_fingerprint=served.fingerprint,
        **shape,
    )
    await asyncio.to_thread(engine.context.residency.admit, served, shape_of(upload))
    earlier = await engine.context.journal.do(queries.every, Upload)
    if sum(each.owner == upload.owner for each in earlier) >= MAX_OPEN:
        raise RateLimited(f"{MAX_OPEN} uploads of yours are not finished; finish them first")
    if len(earlier) >= MAX_OPEN_IN_ALL:
        raise Overloaded("Too many uploads are not finished; try again later")
    await engine.context.journal.do(queries.insert, upload)
    return upload


async def receive_file(
    engine: Engine, upload: Upload, file: str, size: int | None, parts: AsyncIterator[bytes]
) -> None:
    """Store FILE of an upload, in place of an earlier one.

    Args:
        engine: the engine.
        upload: the upload.
        file: one of `FILES`.
        size: in bytes, if the client states it.
        parts: the content; it refuses to be too large.

    Raises:
        Overloaded: the disk has no room for it.
    """
    folder = engine.context.files.upload(upload.id)
    await asyncio.to_thread(folder.mkdir, parents=True, exist_ok=True)
    if (size or 0) + SLACK > shutil.disk_usage(folder).free:
        raise Overloaded("The engine's disk has no room for this file; free some, and try again")
    unfinished = folder / f".{file}.{secrets.token_hex(8)}"
    try:
        with unfinished.open("wb") as to:
            waiting = bytearray()
            async for part in parts:
                waiting += part
                if len(waiting) >= WRITE_BYTES:
                    await asyncio.to_thread(to.write, bytes(waiting))
                    waiting.clear()
            await asyncio.to_thread(to.write, bytes(waiting))
        unfinished.rename(folder / file)
    except OSError as problem:
        if problem.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise Overloaded("The engine's disk is full; free some of it, and try again") from None
    finally:
        unfinished.unlink(missing_ok=True)


async def open_upload(engine: Engine, upload_id: str) -> Upload:
    """Return an upload that is not finished and has not expired."""
    found = await engine.context.journal.do(queries.find, Upload, upload_id)
    if found is None or found.expires <= time.time():
        raise NotFound("This upload does not exist, is finished, or has expired; start a new one")
    return found


async def limit_of(engine: Engine, upload: Upload, file: str) -> int:
    """Return how many bytes FILE of an upload may have."""
    if file == CONFIG_FILE:
        return MAX_CONFIG
    served = engine.base_model(upload.base_model)
    size = await asyncio.to_thread(memory.adapter_bytes, served, shape_of(upload))
    # Experts one by one repeat the factors that gate and up share.
    return 2 * size + SLACK


def _lock(engine: Engine, upload_id: str) -> asyncio.Lock:
    """Return the lock under which an upload ends."""
    return engine.finishing.setdefault(upload_id, asyncio.Lock())


async def finish_upload(
    engine: Engine, who: Principal, upload_id: str
) -> tuple[str, tuple[str, ...]]:
    """Check the files of an upload, and make a checkpoint of them.

    Returns:
        Its path, and the names of the layers that are new. A repeated call returns the same path,
        and no names.

    Raises:
        Refused: a file is missing, or the adapter is not one of the base model and the settings
            that the upload was started with. The client may send a file again.
    """
    path = CheckpointPath(upload_id, "external", NAME)
    async with _lock(engine, upload_id):
        known = await engine.context.journal.do(queries.find, Checkpoint, str(path))
        if known is not None and who.can_access(known.owner):
            return known.path, ()
        upload = await open_upload(engine, upload_id)
        if not who.can_access(upload.owner):
            raise NotFound("This upload does not exist, is finished, or has expired")
        size, new_layers = await asyncio.to_thread(_store, engine, upload, path)
        saved = Checkpoint(
            path=str(path),
            run=upload.id,
            kind="external",
            name=NAME,
            created=time.time(),
            bytes=size,
            **upload.adapter(),
        )
        await engine.context.journal.do(queries.replace, saved)
        await delete_upload(engine, upload)
        return saved.path, new_layers


def _store(engine: Engine, upload: Upload, path: CheckpointPath) -> tuple[int, tuple[str, ...]]:
    """Write the checkpoint of an upload, and return its bytes and the layers that are new."""
    folder = engine.context.files.upload(upload.id)
    for file in FILES:
        if not (folder / file).is_file():
            raise Refused(f"The file {file} is missing; send it, and finish the upload again")
    served = engine.base_model(upload.base_model)
    wrapper = memory.skeleton(served.path, shape_of(upload))
    adapter = read_foreign(
        folder,
        {name: tuple(size) for name, size in wrapper.shapes.items()},
        upload.base_model,
        upload.rank,
        upload.seed,
    )
    size = write_folder(
        engine.context.files.checkpoint(path),
        lambda to: wrapper.export(adapter.tensors, to, upload.base_model),
    )
    return size, adapter.new_layers


async def delete_upload(engine: Engine, upload: Upload) -> None:
    """Delete an upload and its files."""
    folder = engine.context.files.upload(upload.id)
    await asyncio.to_thread(shutil.rmtree, folder, True)
    if not folder.exists():
        await engine.context.journal.do(queries.delete, Upload, upload.id)


async def delete_expired_uploads(engine: Engine, now: float) -> None:
    """Delete the uploads that were not finished in time, at NOW."""
    for upload in await engine.context.journal.do(queries.every, Upload):
        if upload.expires <= now:
            async with _lock(engine, upload.id):
                await delete_upload(engine, upload)
