"""The API's requests to the training engine; what it can do is remembered briefly."""

import asyncio
import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from types import MappingProxyType
from typing import Any
from urllib.parse import quote

import httpx2
from pydantic import BaseModel, ConfigDict, ValidationError

from dreadnode_api.errors import BadGateway, GatewayTimeout, NotFound

log = logging.getLogger(__name__)

SCHEME = "tinker://"
DELETED_STATUSES = (204, 200, 404)
UNREADABLE = "The training engine gives an answer that cannot be read"


class EngineMemory(BaseModel):
    """What a run on one model needs, and what the engine may use now, in bytes."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    fixed_bytes: int
    bytes_per_rank: int
    bytes_per_token: int
    micro_batch_tokens: int
    budget_bytes: int

    def need(self, rank: int, tokens: int = 0) -> int:
        """Return what a run of RANK needs for sequences of TOKENS."""
        more = max(0, tokens - self.micro_batch_tokens)
        return self.fixed_bytes + rank * self.bytes_per_rank + more * self.bytes_per_token


class EngineModel(BaseModel):
    """One model that the engine serves; what only our own engine adds may be missing."""

    model_config = ConfigDict(extra="ignore", frozen=True, protected_namespaces=())

    model_name: str
    max_context_length: int | None = None
    # Hosted Tinker may leave these two out; what it lists, it serves.
    trainable: bool | None = None
    sampleable: bool | None = None
    stand_in: bool = False
    streams: bool = False
    uploads: bool = False
    tokenizer_id: str | None = None
    max_lora_rank: int | None = None
    tied_embeddings: bool = False
    memory: EngineMemory | None = None

    @property
    def can_train(self) -> bool:
        """Whether a job can be trained on it."""
        return self.trainable is not False


@dataclass(frozen=True, slots=True)
class Capabilities:
    """The models of the engine by name, and when it was asked (`time.monotonic()`)."""

    models: Mapping[str, EngineModel]
    asked_at: float

    @property
    def age(self) -> float:
        """Seconds since the engine was asked."""
        return time.monotonic() - self.asked_at

    @property
    def stand_in(self) -> EngineModel | None:
        """The small model that rehearsals run on, if this engine has one."""
        return next((m for m in self.models.values() if m.stand_in and m.can_train), None)

    def memory_for(self, model_id: str) -> EngineMemory | None:
        """Return what runs on `model_id` need, if the engine says so."""
        found = self.models.get(model_id)
        return None if found is None else found.memory

    def trainable(self, model_id: str) -> EngineModel | None:
        """Return the entry of `model_id` if a real job can be trained on it."""
        found = self.models.get(model_id)
        return found if found is not None and found.can_train and not found.stand_in else None


class EngineClient:
    """A client of the engine: what it serves, and the checkpoints that it holds."""

    def __init__(
        self,
        url: str,
        key: str,
        *,
        timeout: float = 10.0,
        remember: float = 10.0,
        transport: httpx2.AsyncBaseTransport | None = None,
    ) -> None:
        self._url = url
        self._remember = remember
        # Made when first asked: reading the system's certificates takes longer than all the rest
        # of a start, and an engine on this machine needs none.
        self._connect = partial(
            httpx2.AsyncClient, timeout=timeout, transport=transport, headers={"X-API-Key": key}
        )
        self._client: httpx2.AsyncClient | None = None
        self._known: Capabilities | None = None
        self._asking = asyncio.Lock()

    @property
    def is_configured(self) -> bool:
        """Whether this server has an engine."""
        return bool(self._url)

    async def capabilities(self, *, at_most: float | None = None) -> Capabilities:
        """Return what the engine serves, by an answer of at most `at_most` seconds of age.

        Raises:
            BadGateway: the engine cannot be reached or gives no usable answer.
            GatewayTimeout: it does not answer in time.
        """
        limit = self._remember if at_most is None else at_most
        async with self._asking:
            if self._known is None or self._known.age > limit:
                self._known = await self._ask()
            return self._known

    async def base_model_of(self, path: str, *, key: str | None = None) -> str:
        """Return the base model of the checkpoint at PATH, for the holder of KEY.

        Raises:
            NotFound: the checkpoint does not exist for this key.
            BadGateway, GatewayTimeout: as for `capabilities`.
        """
        response = await self._send("POST", "weights_info", key, {"tinker_path": path})
        if response.status_code in (400, 404):
            raise NotFound(str(_field(response, "detail")))
        return str(_field(_successful(response), "base_model"))

    async def sampler_checkpoints(
        self, limit: int, *, key: str | None = None
    ) -> list[tuple[str, datetime]]:
        """Return path and time of the newest LIMIT checkpoints to sample from, for KEY's holder."""
        response = _successful(await self._send("GET", f"checkpoints?limit={limit}", key))
        return [
            (str(each["tinker_path"]), datetime.fromisoformat(each["time"]))
            for each in _field(response, "checkpoints")
            if each["checkpoint_type"] == "sampler"
        ]

    async def delete_checkpoint(self, path: str) -> bool:
        """Delete a checkpoint, and return whether it is deleted; raises as `capabilities` does."""
        run, _, name = path.removeprefix(SCHEME).partition("/")
        place = f"training_runs/{quote(run)}/checkpoints/{quote(name)}"
        return (await self._send("DELETE", place)).status_code in DELETED_STATUSES

    async def checkpoint_sizes(self, run: str) -> dict[str, int]:
        """Return the sizes of a run's checkpoints in bytes, by path; none of an unknown run."""
        response = await self._send("GET", f"training_runs/{quote(run)}/checkpoints")
        found = _field(response, "checkpoints") if response.status_code == 200 else ()
        sizes = {each["tinker_path"]: each.get("size_bytes") for each in found}
        return {path: int(size) for path, size in sizes.items() if size is not None}

    async def _ask(self) -> Capabilities:
        asked_at = time.monotonic()
        response = _successful(await self._send("GET", "get_server_capabilities"))
        return Capabilities(MappingProxyType(_models(response)), asked_at)

    async def _send(
        self, method: str, path: str, key: str | None = None, body: Any = None
    ) -> httpx2.Response:
        """Return the response to one request, sent with KEY or with the client's own."""
        if not self._url:
            raise BadGateway("This server has no training engine; set `TINKER_BASE_URL` on it")
        if self._client is None:
            self._client = self._connect(verify=self._url.startswith("https:"))
        try:
            return await self._client.request(
                method,
                f"{self._url}/api/v1/{path}",
                json=body,
                headers={"X-API-Key": key} if key else None,
            )
        except httpx2.TimeoutException:
            raise GatewayTimeout(
                "The training engine does not answer in time; try again in a minute"
            ) from None
        except httpx2.HTTPError as error:
            log.warning("the training engine could not be asked: %r", error)
            raise BadGateway(
                "The training engine cannot be reached; see whether it runs, then try again"
            ) from None

    async def close(self) -> None:
        """Close the connections."""
        if self._client is not None:
            await self._client.aclose()


def _successful(response: httpx2.Response) -> httpx2.Response:
    if response.status_code != 200:
        raise BadGateway(
            f"The training engine answers with status {response.status_code}; "
            "see its log, and whether its key is the one this server holds"
        )
    return response


def _field(response: httpx2.Response, name: str) -> Any:
    try:
        return response.json()[name]
    except (ValueError, KeyError, TypeError):
        raise BadGateway(UNREADABLE) from None


def _models(response: httpx2.Response) -> dict[str, EngineModel]:
    try:
        body: Any = response.json()
        entries = [EngineModel.model_validate(e) for e in body["supported_models"]]
    except (ValueError, KeyError, TypeError, ValidationError):
        raise BadGateway(UNREADABLE) from None
    return {entry.model_name: entry for entry in entries}
