"""The switch by which clients of version 2 show things to other organizations: it stays off."""

from typing import Annotated

from fastapi import APIRouter, Path

from app.capabilities import service
from app.capabilities.schemas import Visibility, VisibilityRequest
from app.datasets import service as datasets
from app.datasets.schemas import NAME
from app.deps import OrgMember, ReadSession
from app.errors import ERRORS

router = APIRouter(prefix="/org/{org}", responses=ERRORS)

Name = Annotated[str, Path(pattern=NAME)]


@router.patch("/capabilities/{name}/visibility", tags=["Capabilities"])
async def set_capability_visibility(
    caller: OrgMember, name: Name, request: VisibilityRequest, session: ReadSession
) -> Visibility:
    """Keep a capability to its organization, which it is kept to anyway; never publish it."""
    await service.list_versions(session, caller.org_id, name)
    return Visibility(name=name, is_public=request.is_public)


@router.patch("/datasets/{name}/visibility", tags=["Datasets"])
async def set_dataset_visibility(
    caller: OrgMember, name: Name, request: VisibilityRequest, session: ReadSession
) -> Visibility:
    """Keep a dataset to its organization, which it is kept to anyway; never publish it."""
    await datasets.list_versions(session, caller.org_id, name)
    return Visibility(name=name, is_public=request.is_public)
