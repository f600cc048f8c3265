"""The files of a PEFT adapter, downloaded from the engine."""

import asyncio
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import httpx2
from safetensors import SafetensorError, safe_open

from dreadnode_runtime.backend.adapter_layout import BASE_DTYPE, CONFIG, WEIGHTS, settle
from dreadnode_runtime.errors import JobFailed

FILES: Final = (CONFIG, WEIGHTS)


async def fetch(urls: Mapping[str, str], folder: Path, name: str, base: str | None) -> list[str]:
    """Download the adapter's files into FOLDER, check it, and bring it into PEFT's layout.

    Args:
        urls: URL of each file, by file name.
        folder: Created if it does not exist.
        name: Name of the export in messages.
        base: Folder or hub id of the base model, if known.

    Returns:
        One sentence for each part of the adapter that PEFT would not load.

    Raises:
        JobFailed: The weights are not finite, or the export lacks a file that PEFT needs.
        httpx2.HTTPError: A download failed.
    """
    if missing := [file for file in FILES if file not in urls]:
        raise JobFailed(
            f"The engine's export of the adapter lacks `{missing[0]}`", code="engine_refused"
        )
    folder.mkdir(parents=True, exist_ok=True)  # noqa: ASYNC240
    async with httpx2.AsyncClient(timeout=60, follow_redirects=True) as http:
        for file in FILES:
            await _download(http, urls[file], folder / file)
    if not await asyncio.to_thread(_is_finite, folder / WEIGHTS):
        raise JobFailed(
            f"The weights of `{name}` are not finite: lower the learning rate, and resume from "
            "an earlier checkpoint",
            code="diverged",
        )
    return await asyncio.to_thread(settle, folder, base)


def base_dtype(folder: Path) -> str | None:
    """Return the data type of the base weights in training, which our engine writes there."""
    try:
        with safe_open(folder / WEIGHTS, framework="pt") as file:
            return (file.metadata() or {}).get(BASE_DTYPE)
    except (OSError, SafetensorError):
        return None


async def _download(http: httpx2.AsyncClient, url: str, to: Path) -> None:
    async with http.stream("GET", url) as response:
        response.raise_for_status()
        with to.open("wb") as file:
            async for chunk in response.aiter_bytes():
                file.write(chunk)


def _is_finite(weights: Path) -> bool:
    with safe_open(weights, framework="pt") as tensors:
        names = tensors.keys()
        return all(bool(tensors.get_tensor(name).isfinite().all()) for name in names)
