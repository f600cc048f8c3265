"""The files of an adapter as PEFT loads them, fetched from where the engine offers them."""

import asyncio
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import httpx
from safetensors import safe_open

from dreadnode_runtime.errors import JobFailed

WEIGHTS: Final = "adapter_model.safetensors"
FILES: Final = ("adapter_config.json", WEIGHTS)


async def fetch(urls: Mapping[str, str], folder: Path, name: str) -> None:
    """Fetch the adapter's files into FOLDER, and look at the weights.

    Args:
        urls: The address of each file.
        folder: Where they go; made if it is not there.
        name: What the export is called in messages.

    Raises:
        JobFailed: The weights are no numbers, or the export lacks a file that PEFT needs.
        httpx.HTTPError: An address does not answer.
    """
    if missing := [file for file in FILES if file not in urls]:
        raise JobFailed(
            f"The engine's export of the adapter lacks `{missing[0]}`", code="engine_refused"
        )
    folder.mkdir(parents=True, exist_ok=True)  # noqa: ASYNC240
    async with httpx.AsyncClient(timeout=60, follow_redirects=True) as http:
        for file in FILES:
            await _download(http, urls[file], folder / file)
    if not await asyncio.to_thread(_finite, folder / WEIGHTS):
        raise JobFailed(
            f"The weights of `{name}` are not numbers: lower the learning rate, and go on from "
            "an earlier checkpoint",
            code="diverged",
        )


async def _download(http: httpx.AsyncClient, url: str, to: Path) -> None:
    async with http.stream("GET", url) as response:
        response.raise_for_status()
        with to.open("wb") as file:
            async for chunk in response.aiter_bytes():
                file.write(chunk)


def _finite(weights: Path) -> bool:
    with safe_open(weights, framework="pt") as tensors:
        names = tensors.keys()
        return all(bool(tensors.get_tensor(name).isfinite().all()) for name in names)
