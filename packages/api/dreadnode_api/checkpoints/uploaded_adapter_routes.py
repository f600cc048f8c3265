"""The route that takes an adapter which was trained elsewhere, so that jobs can start from it."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Annotated, Any

from anyio import to_thread
from fastapi import APIRouter, Query, Request
from pydantic import Field

from dreadnode_api import audit
from dreadnode_api.auth.deps import Member
from dreadnode_api.blob_store import discard
from dreadnode_api.checkpoints.adapters import FILES
from dreadnode_api.checkpoints.transfers import InTransfers
from dreadnode_api.errors import ERRORS, ApiError, Invalid, Malformed
from dreadnode_api.http.deps import InEngine, InSettings, InStore
from dreadnode_api.http.disconnect import while_connected
from dreadnode_api.http.multipart import HEADERS_BYTES, bounded, content_type, parts
from dreadnode_api.http.schemas import Response, Timestamp

router = APIRouter(
    prefix="/org/{org}/ws/{ws}/training/adapters", responses=ERRORS, tags=["Training jobs"]
)

BODY = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "properties": {
                        name: {"type": "string", "contentMediaType": "application/octet-stream"}
                        for name in FILES
                    },
                    "required": list(FILES),
                    "additionalProperties": False,
                }
            }
        },
    }
}


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


@router.post("", status_code=201, openapi_extra=BODY)
async def upload_adapter(
    scope: Member,
    model: Annotated[
        str, Query(min_length=1, max_length=200, description="The base model that it is for")
    ],
    request: Request,
    engine: InEngine,
    settings: InSettings,
    store: InStore,
    transfers: InTransfers,
) -> AdapterView:
    """Upload a LoRA adapter in PEFT's format, so that jobs can start from it.

    The engine compares the adapter with the base model: its name, the rank, and the name and shape
    of every tensor. The adapter is kept for 30 days.
    """
    with store.temporary_folder() as folder:
        await _receive(request, folder, settings.max_file_bytes)
        served = (await engine.capabilities()).models.get(model)
        if served is None or not served.can_train:
            raise Invalid(
                f"This server's engine has no weights for `{model[:200]}`, so that an adapter of "
                "it cannot be compared with them",
                "model",
            )
        row, new_layers = await while_connected(request, transfers.upload(scope, served, folder))
    audit.record(scope.caller.user_id, scope.org_id, "uploaded the adapter", row.path)
    return AdapterView.of(row, model=model, lora_rank=row.rank, new_layers=new_layers)


async def _receive(request: Request, folder: Path, limit: int) -> None:
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
