"""What a route may ask for: a transaction, a caller, an organization, a workspace, a job."""

from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends, Path, Request, Security
from fastapi.security import APIKeyHeader, HTTPBearer
from sqlalchemy import or_, select
from sqlalchemy.ext.asyncio import AsyncSession

from dreadnode_api.auth import signed
from dreadnode_api.auth.callers import Authenticator, Caller, Role, need
from dreadnode_api.blob_store import BlobStore
from dreadnode_api.db import Database
from dreadnode_api.errors import Forbidden, NotFound, Unauthenticated
from dreadnode_api.models.auth import Workspace
from dreadnode_api.settings import Settings
from dreadnode_api.training.engine import Engine

# Described for `/docs`; `caller` reads the headers itself, so that both fail in our words.
_BEARER = HTTPBearer(auto_error=False, description="An API key")
_API_KEY = APIKeyHeader(name="X-API-Key", auto_error=False, description="The same API key")


def database(request: Request) -> Database:
    """Return the database of this application."""
    found: Database = request.app.state.database
    return found


def settings(request: Request) -> Settings:
    """Return the settings of this application."""
    found: Settings = request.app.state.settings
    return found


def engine(request: Request) -> Engine:
    """Return the training engine that this server uses."""
    found: Engine = request.app.state.engine
    return found


def store(request: Request) -> BlobStore:
    """Return the store of datasets and job files."""
    found: BlobStore = request.app.state.store
    return found


InDatabase = Annotated[Database, Depends(database)]
InSettings = Annotated[Settings, Depends(settings)]
InEngine = Annotated[Engine, Depends(engine)]
InStore = Annotated[BlobStore, Depends(store)]


async def _read(database: InDatabase) -> AsyncIterator[AsyncSession]:
    async with database.reading() as session:
        yield session


async def _write(database: InDatabase) -> AsyncIterator[AsyncSession]:
    async with database.writing() as session:
        yield session


# `scope="function"`: the transaction is over before the answer leaves. By default FastAPI ends
# it afterwards, and a client could hold a 201 for a row that was never written.
ReadSession = Annotated[AsyncSession, Depends(_read, scope="function")]
WriteSession = Annotated[AsyncSession, Depends(_write, scope="function")]


async def caller(
    request: Request,
    _bearer: Annotated[object, Security(_BEARER)] = None,
    _key: Annotated[object, Security(_API_KEY)] = None,
) -> Caller:
    """Return who asks.

    Raises:
        Unauthenticated: no key, one that is not valid, or that of a job that has ended.
    """
    authenticator: Authenticator = request.app.state.authenticator
    found = await authenticator.caller(request.headers)
    if found.ended:
        raise Unauthenticated("The job of this key has ended, and the key with it")
    return found


AnyCaller = Annotated[Caller, Depends(caller)]


async def user(caller: AnyCaller) -> Caller:
    """Return who asks, which must be a user.

    Raises:
        Forbidden: the key is a sandbox's.
    """
    if caller.role is None:
        raise Forbidden("The key of a job opens that one job and nothing else")
    return caller


UserCaller = Annotated[Caller, Depends(user)]

KEY = r"^[A-Za-z0-9-]+$"
OrgKey = Annotated[
    str, Path(max_length=64, pattern=KEY, description="Key or id of the organization")
]
WorkspaceKey = Annotated[
    str, Path(max_length=64, pattern=KEY, description="Key or id of the workspace")
]


def check_org(caller: Caller, org: str) -> None:
    """Return if `org` is the caller's own organization.

    Raises:
        NotFound: it is another's, or does not exist; both are answered alike.
    """
    if org not in (caller.org_id, caller.org_key):
        raise NotFound(f"There is no organization `{org}` that this API key opens")


def in_org(role: Role) -> Callable[..., Awaitable[Caller]]:
    """Return a dependency: the caller, a user with at least `role` in the path's organization."""

    async def dependency(org: OrgKey, caller: UserCaller) -> Caller:
        check_org(caller, org)
        need(caller, role)
        return caller

    return dependency


async def downloader(
    org: OrgKey,
    request: Request,
    ticket: Annotated[signed.Ticket | None, Depends(signed.shown)],
    _bearer: Annotated[object, Security(_BEARER)] = None,
    _key: Annotated[object, Security(_API_KEY)] = None,
) -> Caller:
    """Return a reader of the organization, by their key or by an address that was made for it."""
    if ticket is None:
        found = await user(await caller(request))
    else:
        authenticator: Authenticator = request.app.state.authenticator
        found = await user(await authenticator.bearer(ticket, request.url.path))
    check_org(found, org)
    need(found, Role.READER)
    return found


Downloader = Annotated[Caller, Depends(downloader)]
OrgReader = Annotated[Caller, Depends(in_org(Role.READER))]
OrgMember = Annotated[Caller, Depends(in_org(Role.MEMBER))]
OrgAdmin = Annotated[Caller, Depends(in_org(Role.ADMIN))]


@dataclass(frozen=True, slots=True)
class Place:
    """A caller in a workspace that it may enter."""

    caller: Caller
    org_id: str
    workspace_id: str


async def find_workspace(database: Database, org_id: str, key: str) -> Workspace:
    """Return the workspace that `key` names by key or id, in a transaction of its own.

    Raises:
        NotFound: there is none in this organization.
    """
    async with database.reading() as session:
        found = await session.scalar(
            select(Workspace).where(
                Workspace.org_id == org_id, or_(Workspace.key == key, Workspace.id == key)
            )
        )
    if found is None:
        raise NotFound(f"There is no workspace `{key}` in this organization")
    return found


def in_workspace(role: Role) -> Callable[..., Awaitable[Place]]:
    """Return a dependency: a user with at least `role`, in the path's workspace."""

    async def dependency(
        org: OrgKey, ws: WorkspaceKey, caller: UserCaller, database: InDatabase
    ) -> Place:
        check_org(caller, org)
        workspace = await find_workspace(database, caller.org_id, ws)
        need(caller, role)
        return Place(caller, caller.org_id, workspace.id)

    return dependency


Reader = Annotated[Place, Depends(in_workspace(Role.READER))]
Member = Annotated[Place, Depends(in_workspace(Role.MEMBER))]
Admin = Annotated[Place, Depends(in_workspace(Role.ADMIN))]
