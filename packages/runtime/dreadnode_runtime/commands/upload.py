"""Uploads an adapter: `python -m dreadnode_runtime upload`, one JSON object in, one out.

The adapter is the two files of PEFT in the working directory. The response is `{"ok": true, "path":
…, "rank": …, "train_mlp": …, "train_attn": …, "train_unembed": …, "new_layers": […]}`, or an error
as in `export`.
"""

import json
from dataclasses import asdict
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from dreadnode_runtime.backend.adapter_upload import upload
from dreadnode_runtime.backend.tinker_trainer import engine_is_available
from dreadnode_runtime.commands.responses import Response, error_response
from dreadnode_runtime.errors import RuntimeFault, TryAgain


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
    return json.dumps(await _respond(UploadRequest.model_validate_json(request), folder))


async def _respond(request: UploadRequest, folder: Path) -> Response:
    try:
        # The SDK waits without a time limit for a new session.
        if not await engine_is_available():
            raise TryAgain("The engine does not respond; try again later")
        done = await upload(
            folder, request.base_model, request.ttl_seconds, own_engine=request.own_engine
        )
    except RuntimeFault as fault:
        return error_response(fault)
    return {"ok": True, "path": done.path, **asdict(done.shape), "new_layers": done.new_layers}
