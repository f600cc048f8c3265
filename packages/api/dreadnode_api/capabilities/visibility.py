"""Routes by which clients of version 2 change visibility; nothing can be made public here."""

from typing import Annotated

from fastapi import APIRouter, Path

from dreadnode_api.auth.deps import OrgMember
from dreadnode_api.capabilities import service
from dreadnode_api.capabilities.schemas import Visibility, VisibilityRequest
from dreadnode_api.datasets import service as datasets
from dreadnode_api.errors import ERRORS
from dreadnode_api.http.deps import ReadSession
from dreadnode_api.http.patterns import NAME

router = APIRouter(prefix="/org/{org}", responses=ERRORS)

Name = Annotated[str, Path(pattern=NAME)]


@router.patch("/capabilities/{name}/visibility", tags=["Capabilities"])
async def set_capability_visibility(
    caller: OrgMember, name: Name, request: VisibilityRequest, session: ReadSession
) -> Visibility:
    """Keep a capability private, which it always is; publishing it is refused."""
    await service.list_versions(session, caller.org_id, name)
    return Visibility(name=name, is_public=request.is_public)


@router.patch("/datasets/{name}/visibility", tags=["Datasets"])
async def set_dataset_visibility(
    caller: OrgMember, name: Name, request: VisibilityRequest, session: ReadSession
) -> Visibility:
    """Keep a dataset private, which it always is; publishing it is refused."""
    await datasets.list_versions(session, caller.org_id, name)
    return Visibility(name=name, is_public=request.is_public)
