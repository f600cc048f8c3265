"""The switch by which clients of version 2 show things to other organizations: it stays off."""

from typing import Annotated, Literal

from fastapi import APIRouter, Path

from app.capabilities import service
from app.capabilities.schemas import Visibility, VisibilityRequest
from app.datasets import service as datasets
from app.datasets.schemas import NAME
from app.deps import OrgMember, ReadSession
from app.errors import ERRORS, Invalid, NotFound

router = APIRouter(prefix="/org/{org}", responses=ERRORS, tags=["Capabilities"])


@router.patch("/{kind}/{name}/visibility")
async def set_visibility(
    caller: OrgMember,
    kind: Literal["capabilities", "datasets", "models"],
    name: Annotated[str, Path(pattern=NAME)],
    request: VisibilityRequest,
    session: ReadSession,
) -> Visibility:
    """Keep something to its organization, which it is kept to anyway; refuse to publish it."""
    if kind == "models":
        raise NotFound("This server keeps no models of its own; see `dn train catalog`")
    if kind == "capabilities":
        await service.list_versions(session, caller.org_id, name)
    else:
        await datasets.list_versions(session, caller.org_id, name)
    if request.is_public:
        raise Invalid(
            f"Nothing leaves its organization on this server, so `{name}` cannot be made public; "
            "make those who need it members, with the role `reader`",
            "is_public",
        )
    return Visibility(name=name, is_public=False)
