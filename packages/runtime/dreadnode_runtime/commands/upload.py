"""Uploads an adapter: `python -m dreadnode_runtime upload`, one JSON object in, one out.

The adapter is the two files of PEFT in the working directory. The response is `{"ok": true, "path":
…, "rank": …, "train_mlp": …, "train_attn": …, "train_unembed": …, "new_layers": […]}`, or an error
as in `export`.
"""

from dataclasses import asdict
from functools import partial
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from dreadnode_runtime.backend.adapter_upload import upload
from dreadnode_runtime.commands.responses import Response, response_of


class UploadRequest(BaseModel):
    """What to upload.

    Attributes:
        base_model: Name of the base model on the engine.
        ttl_seconds: After this time the engine deletes the checkpoint.
        own_engine: Whether the engine serves the calls of SDK 0.39, whatever SDK is installed.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    base_model: str
    ttl_seconds: int
    own_engine: bool


async def run(request: str, folder: Path) -> str:
    """Return the JSON response to the JSON text REQUEST."""
    return await response_of(partial(_upload, UploadRequest.model_validate_json(request), folder))


async def _upload(request: UploadRequest, folder: Path) -> Response:
    done = await upload(
        folder, request.base_model, request.ttl_seconds, own_engine=request.own_engine
    )
    return {"path": done.path, **asdict(done.shape), "new_layers": done.new_layers}
