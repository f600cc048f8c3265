"""Routes to push, list, read and delete capabilities."""

from datetime import UTC, datetime
from typing import Annotated, Literal

from fastapi import APIRouter, Path, Query, Request, Response
from starlette.responses import FileResponse

from dreadnode_api.auth import signed, tokens
from dreadnode_api.auth.callers import token_of
from dreadnode_api.auth.deps import Downloader, OrgMember, OrgReader
from dreadnode_api.capabilities import service
from dreadnode_api.capabilities.archive import pack
from dreadnode_api.capabilities.schemas import (
    CapabilityBundle,
    CapabilityList,
    CapabilityRequest,
    CapabilitySummary,
    CapabilityVersions,
    CapabilityView,
)
from dreadnode_api.errors import ERRORS
from dreadnode_api.http.deps import InSettings, InStore, ReadSession, WriteSession
from dreadnode_api.http.patterns import NAME, VERSION
from dreadnode_api.http.query_parameters import IncludePublic
from dreadnode_api.models.capabilities import CapabilityVersion
from dreadnode_api.versions import newest_versions

router = APIRouter(prefix="/org/{org}/capabilities", responses=ERRORS, tags=["Capabilities"])

Name = Annotated[str, Path(pattern=NAME, description="Lower case, at most 100 characters")]
Version = Annotated[str, Path(pattern=VERSION, description="Such as `1.0.0`; never changes")]


@router.put(
    "/{name}/{version}",
    status_code=201,
    responses={200: {"model": CapabilityView, "description": "It existed with the same content"}},
)
async def push_capability(
    caller: OrgMember,
    name: Name,
    version: Version,
    request: CapabilityRequest,
    response: Response,
    session: WriteSession,
) -> CapabilityView:
    """Store a system prompt as a version that jobs can name."""
    made = service.from_prompt(caller, name, version, request)
    found, new = await service.add_version(session, made)
    response.status_code = 201 if new else 200
    return view(found)


@router.get("")
async def list_capabilities(
    caller: OrgReader,
    session: ReadSession,
    search: Annotated[str | None, Query(max_length=200, pattern=r"^[^\x00]+$")] = None,
    page: Annotated[int, Query(ge=1, le=1_000_000)] = 1,
    limit: Annotated[int, Query(ge=1, le=100)] = 50,
    sort_by: Literal["name", "created_at"] = "name",
    sort_dir: Literal["asc", "desc"] = "asc",
    _include_public: IncludePublic = False,
) -> CapabilityList:
    """List capabilities, each with its newest version."""
    found, total = await newest_versions(
        session,
        CapabilityVersion,
        caller.org_id,
        search,
        page,
        limit,
        sort_by=sort_by,
        descending=sort_dir == "desc",
    )
    shown = [CapabilitySummary.of(each, artifact_sha256=each.sha256) for each in found]
    return CapabilityList(capabilities=shown, total=total, page=page, limit=limit)


@router.get("/{name}")
async def get_capability(caller: OrgReader, name: Name, session: ReadSession) -> CapabilityView:
    """Return the newest version of a capability."""
    return view((await service.list_versions(session, caller.org_id, name))[0])


@router.get("/{name}/versions")
async def list_capability_versions(
    caller: OrgReader, name: Name, session: ReadSession
) -> CapabilityVersions:
    """List the versions of a capability, newest first."""
    found = await service.list_versions(session, caller.org_id, name)
    return CapabilityVersions(versions=[each.version for each in found])


@router.delete("/{name}/{version}")
async def delete_capability_version(
    caller: OrgMember, name: Name, version: Version, session: WriteSession
) -> CapabilityView:
    """Delete one version; its name stays taken, and jobs keep the prompt that they were given."""
    return view(await service.delete_version(session, caller.org_id, name, version))


@router.get("/{name}/{version}")
async def get_capability_version(
    caller: OrgReader, name: Name, version: Version, session: ReadSession
) -> CapabilityView:
    """Return one version of a capability."""
    return view(await service.get_version(session, caller.org_id, name, version))


@router.get("/{name}/{version}/bundle")
async def get_bundle(
    caller: OrgReader,
    name: Name,
    version: Version,
    request: Request,
    session: ReadSession,
    settings: InSettings,
) -> CapabilityBundle:
    """Return a URL that downloads the archive without a token for a few minutes."""
    await service.get_version(session, caller.org_id, name, version)
    path = request.url.path.removesuffix("bundle") + "archive"
    signature = signed.sign(path, caller.token_id, tokens.sha256(token_of(request.headers)))
    # Behind a proxy with TLS, the request arrives here without TLS.
    public = settings.public_url if settings.uses_tls else ""
    server = (public or str(request.base_url)).rstrip("/")
    return CapabilityBundle(
        download_url=f"{server}{path}?{signature.query}",
        expires_at=datetime.fromtimestamp(signature.expires, UTC),
    )


@router.get(
    "/{name}/{version}/archive",
    response_class=Response,
    responses={200: {"content": {"application/gzip": {}}, "description": "A gzipped tar"}},
)
async def get_archive(
    caller: Downloader, name: Name, version: Version, session: ReadSession, store: InStore
) -> Response:
    """Return the archive that was pushed, or one made from the prompt that was pushed."""
    found = await service.get_version(session, caller.org_id, name, version)
    headers = {"Content-Disposition": f'attachment; filename="{name}-{version}.tar.gz"'}
    if found.manifest_sha256 is not None:
        path = store.path(found.sha256)
        return FileResponse(path, media_type="application/gzip", headers=headers)
    archive = pack(name, version, found.description, found.prompt or "")
    return Response(archive, media_type="application/gzip", headers=headers)


def view(found: CapabilityVersion) -> CapabilityView:
    """Return the representation of a version."""
    return CapabilityView.of(found, artifact_sha256=found.sha256)
