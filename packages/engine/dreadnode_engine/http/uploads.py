"""The calls for weights of other programs, as tinker SDK 0.39 sends them.

The files go to signed addresses, without a key. SDK 0.38, whose types this engine uses, does not
have these calls.
"""

from urllib.parse import quote

from starlette.requests import Request as HttpRequest
from starlette.responses import JSONResponse, Response

from dreadnode_engine.errors import Refused
from dreadnode_engine.http.bodies import BodyReader, read_body, read_json
from dreadnode_engine.http.calls import Call
from dreadnode_engine.http.rest import NO_CONTENT, time_text
from dreadnode_engine.http.signed import check_signature, signed_address
from dreadnode_engine.protocol.validation import string_field
from dreadnode_engine.service import uploads
from dreadnode_engine.service.engine import Engine
from dreadnode_engine.service.keys import Principal


async def _start(engine: Engine, who: Principal, request: HttpRequest) -> Response:
    upload = await uploads.start_upload(engine, who, await read_body(request))
    expires = int(upload.expires)
    urls = {}
    for file in uploads.FILES:
        name = f"{upload.id}/{file}"
        path = f"/uploads/{quote(name)}"
        urls[file] = signed_address(request, path, f"upload/{name}", expires)
    return JSONResponse({"upload_id": upload.id, "urls": urls, "expires": time_text(expires)})


async def _finish(engine: Engine, who: Principal, request: HttpRequest) -> Response:
    upload_id = string_field(await read_json(request), "upload_id")
    path, new_layers = await uploads.finish_upload(engine, who, upload_id)
    # Which layers are new is this engine's own addition.
    return JSONResponse({"tinker_path": path, "new_layers": new_layers})


async def receive(request: HttpRequest) -> Response:
    """Store one file of an upload, for the holder of its signed address."""
    upload_id, file = request.path_params["upload"], request.path_params["file"]
    check_signature(request, f"upload/{upload_id}/{file}", "upload", "start a new upload")
    engine: Engine = request.app.state.engine
    upload = await uploads.open_upload(engine, upload_id)
    most = await uploads.limit_of(engine, upload, file)
    length = request.headers.get("content-length", "")
    size = int(length) if length.isascii() and length.isdigit() and len(length) < 20 else None
    remedy = "save the adapter alone, without weights of the base model"
    if (size or 0) > most:
        raise Refused(f"The file {file} has {size:,} bytes, and {most:,} are allowed; {remedy}")
    bodies: BodyReader = request.app.state.bodies
    parts = bodies.parts(request, most, remedy)
    await uploads.receive_file(engine, upload, file, size, parts)
    return Response(status_code=NO_CONTENT)


CALLS: dict[str, Call] = {
    "/external_weights_upload_start": _start,
    "/external_weights_upload_finish": _finish,
}
