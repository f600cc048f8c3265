"""The route that takes an adapter which was trained elsewhere."""

from typing import Annotated

from fastapi import APIRouter, Query, Request

from dreadnode_api import audit
from dreadnode_api.auth.deps import Member
from dreadnode_api.checkpoints.adapters import FILES
from dreadnode_api.checkpoints.uploaded_adapters import AdapterUploads, AdapterView, receive
from dreadnode_api.errors import ERRORS
from dreadnode_api.http.deps import InEngine, InSettings, InStore, in_application
from dreadnode_api.http.disconnect import while_connected

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
    uploads: Annotated[AdapterUploads, in_application("adapter_uploads")],
) -> AdapterView:
    """Upload a LoRA adapter in PEFT's format, so that jobs can start from it.

    The engine compares the adapter with the base model: its name, the rank, and the name and shape
    of every tensor. The adapter is kept for 30 days.
    """
    with store.temporary_folder() as folder:
        await receive(request, folder, settings.max_file_bytes)
        done = await while_connected(
            request, uploads.upload(scope, model, await engine.capabilities(), folder)
        )
    audit.record(scope.caller.user_id, scope.org_id, "uploaded the adapter", done.path)
    return done
