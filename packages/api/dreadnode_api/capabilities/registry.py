"""The part of the OCI distribution protocol with which clients of version 2 push a capability.

A push sends two blobs, a config in JSON and one gzipped tar, then the manifest that refers to both.
A manifest can refer to a blob only when the blob is complete and its digest was checked. An
organization sees only the blobs that it has sent. Datasets and models cannot be pushed this way.
"""

import json
import secrets
from typing import Annotated, Any

from anyio import to_thread
from fastapi import APIRouter, Path, Query, Request, Response
from pydantic import ValidationError
from sqlalchemy.ext.asyncio import AsyncSession
from starlette.responses import FileResponse

from dreadnode_api.auth.callers import Caller
from dreadnode_api.auth.deps import OrgMember, OrgReader
from dreadnode_api.blob_store import BlobStore
from dreadnode_api.capabilities import service
from dreadnode_api.capabilities.archive import MAX_PATH
from dreadnode_api.capabilities.schemas import Descriptor, ImageManifest
from dreadnode_api.errors import Malformed, NotFound, plain
from dreadnode_api.http.deps import InDatabase, InSettings, InStore, ReadSession, WriteSession
from dreadnode_api.http.disconnect import while_connected
from dreadnode_api.http.patterns import DIGEST, NAME, VERSION
from dreadnode_api.http.schemas import storage_problems
from dreadnode_api.models.capabilities import CapabilityVersion
from dreadnode_api.uploads import InUploadReader, UnreadableUpload

# Described by the OCI distribution specification, so left out of our OpenAPI description.
router = APIRouter(include_in_schema=False)

MANIFEST_TYPE = "application/vnd.oci.image.manifest.v1+json"
MAX_CONFIG_BYTES = 1024 * 1024
ARCHIVE_READER = "dreadnode_api.capabilities.archive"
ARCHIVE_SECONDS = 30.0
Digest = Annotated[str, Path(pattern=DIGEST, description="`sha256:` and 64 digits")]
Name = Annotated[str, Path(pattern=NAME)]
Version = Annotated[str, Path(pattern=VERSION)]


@router.head("/{org}/blobs/{digest}")
@router.get("/{org}/blobs/{digest}", response_class=FileResponse)
async def get_blob(
    caller: OrgReader, digest: Digest, session: WriteSession, store: InStore
) -> FileResponse:
    """Return a blob that this organization has sent, so that a client need not send it again."""
    found = await service.use_blob(session, caller.org_id, digest.removeprefix("sha256:"))
    if not store.path(found.sha256).is_file():
        raise NotFound(f"This organization has no blob `{digest}`")
    return FileResponse(
        store.path(found.sha256),
        media_type="application/octet-stream",
        headers={"Docker-Content-Digest": digest},
    )


@router.post("/{org}/{name}/blobs/uploads/", status_code=202, response_class=Response)
async def start_upload(caller: OrgMember, org: str, name: Name) -> Response:
    """Return the URL to which a blob is sent in one piece; nothing is stored yet."""
    where = f"/api/v1/{org}/{name}/blobs/uploads/{secrets.token_hex(16)}"
    return Response(status_code=202, headers={"Location": where, "Range": "0-0"})


@router.put("/{org}/{name}/blobs/uploads/{upload}", status_code=201, response_class=Response)
async def put_blob(
    caller: OrgMember,
    name: Name,
    upload: Annotated[str, Path(pattern=r"^[0-9a-f]{32}$")],
    digest: Annotated[str, Query(pattern=DIGEST)],
    request: Request,
    database: InDatabase,
    store: InStore,
    settings: InSettings,
) -> Response:
    """Store a blob whose bytes have this digest."""
    sha256 = digest.removeprefix("sha256:")
    async with store.receiving(request.stream(), settings.max_capability_bytes) as incoming:
        if incoming.sha256 != sha256:
            raise Malformed(
                f"The bytes have the digest `sha256:{incoming.sha256}` and not `{digest}`; "
                "send them again"
            )
        async with database.writing() as session:
            await service.add_blob(session, settings, caller.org_id, sha256, incoming.bytes)
            incoming.keep()
    headers = {"Location": f"/api/v1/{caller.org_slug}/blobs/{digest}"}
    return Response(status_code=201, headers=headers | {"Docker-Content-Digest": digest})


@router.put("/{org}/{name}/manifests/{version}", status_code=201, response_class=Response)
async def put_manifest(
    caller: OrgMember,
    name: Name,
    version: Version,
    request: Request,
    database: InDatabase,
    store: InStore,
    reader: InUploadReader,
) -> Response:
    """Create a version of a capability from two blobs that were sent before."""
    content = await request.body()
    manifest = _manifest(content)
    layer = _layer(manifest)
    named = (manifest.config, layer)
    async with database.writing() as session:
        await _use(session, caller, store, *named)
    config = await to_thread.run_sync(_config, store, manifest.config)
    described = config.get("capability_manifest")
    described = described if isinstance(described, dict) else {}
    entry = described.get("entry_agent")
    is_name = isinstance(entry, str) and entry.isprintable() and len(entry) <= MAX_PATH
    arguments = [str(entry)] if is_name else []
    try:
        reading = reader.read(
            caller.org_id,
            ARCHIVE_READER,
            str(store.path(layer.sha256).absolute()),
            *arguments,
            seconds=ARCHIVE_SECONDS,
        )
        found = await while_connected(request, reading)
    except UnreadableUpload as error:
        raise Malformed(str(error)) from None
    description = described.get("description")
    made = CapabilityVersion(
        org_id=caller.org_id,
        name=name,
        version=version,
        description=description if isinstance(description, str) else None,
        prompt=found["prompt"],
        entry_agent=found["agent"],
        details=service.details_of(config),
        sha256=layer.sha256,
        config_sha256=manifest.config.sha256,
        created_by=caller.user_id,
    )
    async with store.receiving(_once(content), len(content)) as incoming:
        made.manifest_sha256 = incoming.sha256
        async with database.writing() as session:
            # Again, in the transaction that refers to them: the cleanup keeps what is marked here.
            await _use(session, caller, store, *named)
            if (await service.add_version(session, made))[1]:
                incoming.keep()
    digest = f"sha256:{incoming.sha256}"
    headers = {"Location": f"/api/v1/{caller.org_slug}/{name}/manifests/{version}"}
    return Response(status_code=201, headers=headers | {"Docker-Content-Digest": digest})


@router.get("/{org}/{name}/manifests/{version}", response_class=FileResponse)
async def get_manifest(
    caller: OrgReader, name: Name, version: Version, session: ReadSession, store: InStore
) -> FileResponse:
    """Return the manifest of a version."""
    found = await service.get_version(session, caller.org_id, name, version)
    if found.manifest_sha256 is None:
        raise NotFound(f"`{name}@{version}` was pushed as a prompt and has no manifest")
    return FileResponse(
        store.path(found.manifest_sha256),
        media_type=MANIFEST_TYPE,
        headers={"Docker-Content-Digest": f"sha256:{found.manifest_sha256}"},
    )


def _manifest(content: bytes) -> ImageManifest:
    """Parse a manifest.

    Raises:
        Malformed: it is not a manifest, or not that of a capability.
    """
    try:
        manifest = ImageManifest.model_validate_json(content)
    except ValidationError:
        raise Malformed("The body is not an OCI image manifest that can be read") from None
    if manifest.kind != "capability":
        what = plain(manifest.kind[:40]) or "package without a type"
        raise Malformed(
            f"A {what} cannot be pushed to this server's registry; "
            "datasets are pushed with `dn dataset push`, and base models are not pushed at all"
        )
    return manifest


def _layer(manifest: ImageManifest) -> Descriptor:
    if len(manifest.layers) != 1:
        raise Malformed("A capability has exactly one layer, the gzipped tar of its files")
    return manifest.layers[0]


async def _use(session: AsyncSession, caller: Caller, store: BlobStore, *named: Descriptor) -> None:
    """Mark the blobs that a manifest refers to as used.

    Raises:
        Malformed: one of them was not sent, or is missing.
    """
    # The same order in every push, so none deadlock.
    for each in sorted(named, key=lambda blob: blob.sha256):
        await service.use_sent(session, caller.org_id, each.sha256, each.size)
        if not store.path(each.sha256).is_file():
            raise Malformed(f"The blob `{each.digest}` is missing; send it again")


def _config(store: BlobStore, named: Descriptor) -> dict[str, Any]:
    if named.size > MAX_CONFIG_BYTES:
        raise Malformed(f"The config is larger than {MAX_CONFIG_BYTES:,} bytes")
    try:
        config = json.loads(store.path(named.sha256).read_bytes())
    except (ValueError, RecursionError):
        config = None
    if not isinstance(config, dict):
        raise Malformed("The config that the manifest refers to is not a JSON object")
    for problem in storage_problems(config):
        raise Malformed(f"The config that the manifest refers to cannot be stored: {problem}")
    return config


async def _once(content: bytes) -> Any:
    yield content
