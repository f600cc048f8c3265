"""Sends an adapter that another program trained to the engine, where it becomes a checkpoint.

tinker SDK 0.39 has two calls for that; our engine serves them, and with an earlier SDK they are
sent from here. The engine compares the adapter with its base model, name by name and shape by
shape.
"""

import asyncio
import json
import os
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import httpx2
import tinker
from safetensors import SafetensorError

from dreadnode_runtime.backend.adapter_layout import CONFIG, WEIGHTS, header, settle_layout
from dreadnode_runtime.backend.hosted_layout import UnknownLayout
from dreadnode_runtime.backend.tinker_trainer import rest_client, translate_errors
from dreadnode_runtime.errors import JobFailed, TryAgain, plain

MLP = ("gate_proj", "up_proj", "down_proj", "gate_up_proj")
SEND_SECONDS = 600.0
"""How long the engine may take to store a part of a file, or to check the adapter."""


@dataclass(frozen=True, slots=True)
class AdapterShape:
    """The rank of an adapter, and which layers it trains."""

    rank: int
    train_mlp: bool
    train_attn: bool
    train_unembed: bool


@dataclass(frozen=True, slots=True)
class Uploaded:
    """An adapter that is a checkpoint now.

    Attributes:
        path: The engine's path of it.
        new_layers: Names of layers without weights in the adapter, which are new ones.
    """

    path: str
    shape: AdapterShape
    new_layers: tuple[str, ...] = ()


async def upload(folder: Path, base_model: str, ttl_seconds: int, *, own_engine: bool) -> Uploaded:
    """Make a checkpoint of the adapter in FOLDER on BASE_MODEL.

    Args:
        folder: With PEFT's two files.
        base_model: Name of the base model on the engine.
        ttl_seconds: After this time the engine deletes the checkpoint.
        own_engine: Whether the engine serves the calls of SDK 0.39, whatever SDK is installed.

    Raises:
        JobFailed: The adapter cannot be read, the engine refuses it, or takes none at all.
        TryAgain: The engine cannot be reached.
    """
    rest = await translate_errors(rest_client())
    start: Callable[..., Any] | None = getattr(rest, "external_weights_upload_start", None)
    if start is None and not own_engine:
        raise JobFailed(
            "The server's engine takes no adapters from outside through tinker SDK "
            f"{tinker.__version__}; SDK 0.39 can upload them where the engine allows it. Start "
            "from a job or a checkpoint of yours, or train on the project's own engine",
            code="engine_refused",
        )
    shape = await asyncio.to_thread(_read, folder, own_engine)
    lora = asdict(shape)
    async with httpx2.AsyncClient(timeout=SEND_SECONDS) as http:
        if start is not None:
            config = tinker.types.LoraConfig(**lora)
            opened = await translate_errors(start(base_model=base_model, lora_config=config))
            await _send(http, opened.urls, folder)
            finish: Any = rest.external_weights_upload_finish  # type: ignore[attr-defined]
            done = {"tinker_path": (await translate_errors(finish(opened.upload_id))).tinker_path}
        else:
            body = {"base_model": base_model, "lora_config": lora}
            begun = await _post(http, "external_weights_upload_start", body)
            await _send(http, begun["urls"], folder)
            body = {"upload_id": begun["upload_id"]}
            done = await _post(http, "external_weights_upload_finish", body)
    path = str(done["tinker_path"])
    await translate_errors(rest.set_checkpoint_ttl_from_tinker_path(path, ttl_seconds))
    return Uploaded(path, shape, tuple(done.get("new_layers", ())))


def _read(folder: Path, own_engine: bool) -> AdapterShape:
    """Return the shape of the adapter in FOLDER, in the layout that the engine takes."""
    try:
        if own_engine:
            settle_layout(folder)
        config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        names = list(header(folder)[0])
        return shape_of(config, names)
    except UnknownLayout as problem:
        raise JobFailed(f"The adapter's layout is not known: {problem}", code="adapter") from None
    except (OSError, ValueError, KeyError, TypeError, RecursionError, SafetensorError) as problem:
        raise JobFailed(
            f"The folder holds no readable adapter of PEFT ({plain(problem)}); it needs {CONFIG} "
            f"and {WEIGHTS}",
            code="adapter",
        ) from None


def shape_of(config: Mapping[str, Any], names: list[str]) -> AdapterShape:
    """Return the shape of an adapter with CONFIG and tensors of these NAMES.

    Raises:
        JobFailed: It is not a LoRA adapter.
    """
    rank = config.get("r") if isinstance(config, dict) else None
    layers = {name.partition(".lora_")[0] for name in names if ".lora_" in name}
    if config.get("peft_type") != "LORA" or not isinstance(rank, int) or not layers:
        raise JobFailed(f"{CONFIG} and {WEIGHTS} are not those of a LoRA adapter", code="adapter")
    unembed = {layer for layer in layers if layer.endswith(("lm_head", "unembed_tokens"))}
    mlp = {n for n in layers if ".experts" in n or n.rpartition(".")[2] in MLP}
    return AdapterShape(rank, bool(mlp), bool(layers - unembed - mlp), bool(unembed))


async def _send(http: httpx2.AsyncClient, urls: Mapping[str, Any], folder: Path) -> None:
    for file, address in urls.items():
        if not (folder / file).is_file():
            raise JobFailed(f"The adapter lacks {file}, which the engine wants", code="adapter")
        # SDK 0.40 gives an object with the headers to send in place of the address alone.
        url, headers = getattr(address, "url", address), getattr(address, "headers", {})
        size = (folder / file).stat().st_size
        with (folder / file).open("rb") as content:
            try:
                response = await http.put(
                    url, content=_parts(content), headers={"Content-Length": str(size), **headers}
                )
            except httpx2.HTTPError as problem:
                raise TryAgain(f"The engine took no adapter: {plain(problem)}") from problem
        _check(response)


async def _parts(content: Any) -> Any:
    while part := await asyncio.to_thread(content.read, 1 << 20):
        yield part


async def _post(http: httpx2.AsyncClient, call: str, body: dict[str, Any]) -> dict[str, Any]:
    """Send a call of SDK 0.39 to the engine at `TINKER_BASE_URL`."""
    url = f"{os.environ['TINKER_BASE_URL'].rstrip('/')}/api/v1/{call}"
    try:
        response = await http.post(
            url, json=body, headers={"X-API-Key": os.environ["TINKER_API_KEY"]}
        )
        _check(response)
        done: dict[str, Any] = response.json()
    except (httpx2.HTTPError, ValueError) as problem:
        raise TryAgain(f"The engine could not be asked: {plain(problem)}") from problem
    return done


def _check(response: httpx2.Response) -> None:
    if not response.is_error:
        return
    try:
        detail = plain(response.json()["detail"])
    except (ValueError, KeyError, TypeError):
        detail = f"it responds with {response.status_code}"
    if response.status_code < 500 and response.status_code not in (408, 425, 429):
        raise JobFailed(detail, code="engine_refused")
    raise TryAgain(f"The engine could not do the work: {detail}")
