"""The search for checkpoints, as tinker SDK 0.39 sends it.

SDK 0.38, whose types this engine uses, has the search for sessions only; the address of this one
follows it.
"""

from typing import Any, Self

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field
from starlette.requests import Request as HttpRequest
from starlette.responses import JSONResponse, Response
from tinker.types.search_owner import OwnSearchOwner, SearchOwner, UserSearchOwner

from dreadnode_engine.errors import Refused
from dreadnode_engine.http.bodies import read_body
from dreadnode_engine.http.rest import checkpoint_json, metadata_of, time_text, urn_of
from dreadnode_engine.protocol.validation import parse_body
from dreadnode_engine.service.checkpoints import list_checkpoints
from dreadnode_engine.service.engine import Engine
from dreadnode_engine.service.keys import Principal
from dreadnode_engine.state.records import Checkpoint, Kind


class Cursor(BaseModel):
    """The last checkpoint of a page."""

    model_config = ConfigDict(extra="forbid")

    last_created_at: AwareDatetime
    last_checkpoint_uuid: str

    def is_before(self, found: Checkpoint) -> bool:
        """Whether FOUND comes after this one, newest first."""
        last = round(self.last_created_at.timestamp() * 1e6)
        return (-_microseconds(found), found.path) > (-last, self.last_checkpoint_uuid)


class CheckpointSearch(BaseModel):
    """Which checkpoints to return; None matches every one."""

    model_config = ConfigDict(extra="forbid")

    project_ids: list[str] | None = None
    user_metadata: dict[str, str] = {}
    checkpoint_type: Kind | None = None
    owner: SearchOwner = OwnSearchOwner()
    base_models: list[str] | None = None
    limit: int = Field(50, ge=1, le=200)
    cursor: Cursor | None = None

    @classmethod
    def read(cls, body: bytes) -> Self:
        """Return the search in BODY."""
        wanted = parse_body(cls, body)
        if wanted.project_ids:
            raise Refused("Leave out `project_ids`: this engine has no projects")
        return wanted

    def matches(self, who: Principal, found: Checkpoint) -> bool:
        """Whether WHO asks for FOUND."""
        metadata = metadata_of(found) or {}
        return (
            self.project_ids is None
            and (not isinstance(self.owner, OwnSearchOwner) or found.owner == who.subject)
            and (
                not isinstance(self.owner, UserSearchOwner)
                or urn_of(found.owner) in self.owner.owner_urns
            )
            and self.checkpoint_type in (None, found.kind)
            and (self.base_models is None or found.base_model in self.base_models)
            and all(metadata.get(name) == value for name, value in self.user_metadata.items())
            and (self.cursor is None or self.cursor.is_before(found))
        )


async def search(engine: Engine, who: Principal, request: HttpRequest) -> Response:
    """Return one page of the checkpoints that WHO may list, newest first."""
    wanted = CheckpointSearch.read(await read_body(request))
    return JSONResponse(search_json(wanted, who, await list_checkpoints(engine, who)))


def search_json(
    wanted: CheckpointSearch, who: Principal, listed: list[Checkpoint]
) -> dict[str, Any]:
    """Return one page of the checkpoints that WHO may list and that match, newest first."""
    found = [each for each in listed if wanted.matches(who, each)]
    found.sort(key=lambda each: (-_microseconds(each), each.path))
    page = found[: wanted.limit]
    cursor: dict[str, Any] | None = None
    if len(found) > len(page):
        cursor = {
            "last_created_at": time_text(page[-1].created),
            "last_checkpoint_uuid": page[-1].path,
        }
    items = [checkpoint_json(each) for each in page]
    return {"checkpoints": items, "next_cursor": cursor}


def _microseconds(found: Checkpoint) -> int:
    """Return the time of FOUND as a cursor states it."""
    return round(found.created * 1e6)
