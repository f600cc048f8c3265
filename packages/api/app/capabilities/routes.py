"""Push, list and read capabilities."""

from typing import Annotated

from fastapi import APIRouter, Path, Query, Response

from app.capabilities import service
from app.capabilities.schemas import (
    CapabilityList,
    CapabilityRequest,
    CapabilitySummary,
    CapabilityVersions,
    CapabilityView,
)
from app.capabilities.tables import CapabilityVersion
from app.datasets.schemas import NAME, VERSION
from app.deps import OrgMember, OrgReader, ReadSession, WriteSession
from app.errors import ERRORS

router = APIRouter(prefix="/org/{org}/capabilities", responses=ERRORS, tags=["Capabilities"])

Name = Annotated[str, Path(pattern=NAME, description="Lower case, at most 100 characters")]
Version = Annotated[str, Path(pattern=VERSION, description="Such as `1.0.0`; never changes")]


@router.put(
    "/{name}/{version}",
    status_code=201,
    responses={200: {"model": CapabilityView, "description": "The same was there already"}},
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
) -> CapabilityList:
    """List capabilities by name, each with its newest version."""
    found, total = await service.list_capabilities(session, caller.org_id, search, page, limit)
    shown = [CapabilitySummary.model_validate(_fields(each)) for each in found]
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


@router.get("/{name}/{version}")
async def get_capability_version(
    caller: OrgReader, name: Name, version: Version, session: ReadSession
) -> CapabilityView:
    """Return one version of a capability."""
    return view(await service.get_version(session, caller.org_id, name, version))


def view(found: CapabilityVersion) -> CapabilityView:
    """Return what a client is shown of a version."""
    return CapabilityView.model_validate(
        {**_fields(found), "prompt": found.prompt, "details": found.details}
    )


def _fields(found: CapabilityVersion) -> dict[str, object]:
    names = ("id", "name", "version", "description", "entry_agent", "created_at", "created_by")
    return {**{name: getattr(found, name) for name in names}, "artifact_sha256": found.sha256}
