"""What the routes of pages depend on: the signed-in caller, its workspace, and the form's token."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Annotated, Any
from urllib.parse import urlencode

from fastapi import Depends, Query, Request
from pydantic import BeforeValidator, Field
from starlette.responses import Response

from dreadnode_api.auth.callers import Authenticator, Caller, Role, need
from dreadnode_api.auth.cookies import Cookies
from dreadnode_api.auth.deps import WorkspaceScope, WorkspaceSlug, find_workspace
from dreadnode_api.auth.sessions import check_form_token
from dreadnode_api.console.layout import render_page
from dreadnode_api.http.deps import InDatabase
from dreadnode_api.models.auth import Workspace

SIGN_IN = "/sign-in"
SAFE_METHODS = ("GET", "HEAD")


def empty_is_none(value: Any) -> Any:
    """Return VALUE, or None for the empty string that a form sends for a field not filled in."""
    return None if value == "" else value


Filter = Annotated[
    Annotated[str, Field(max_length=200, pattern=r"^[^\x00]+$")] | None,
    BeforeValidator(empty_is_none),
    Query(),
]
"""A filter of a list, which the form of the page sends as an empty string if it is not set."""


async def signed_in(request: Request) -> Caller:
    """Return the caller whose session the request's cookie names.

    Raises:
        Unauthenticated: there is no session, or it has ended.
    """
    authenticator: Authenticator = request.app.state.authenticator
    caller = await authenticator.visitor(request.app.state.cookies.session(request.headers))
    request.state.caller = caller  # So that an error is shown in the layout of a signed-in page.
    return caller


SignedIn = Annotated[Caller, Depends(signed_in)]


@dataclass(frozen=True, slots=True)
class Page:
    """A page that a signed-in caller asked for."""

    request: Request
    caller: Caller

    @property
    def is_fragment(self) -> bool:
        """Whether htmx asked, which replaces a part of the page that it is on."""
        return "hx-request" in self.request.headers

    def render(self, template: str, *, status: int = 200, **context: Any) -> Response:
        """Return the page, or a fragment of it."""
        return render_page(self.request, template, status=status, caller=self.caller, **context)


@dataclass(frozen=True, slots=True)
class WorkspacePage(Page):
    """A page in a workspace that the caller has access to."""

    workspace: Workspace

    @property
    def scope(self) -> WorkspaceScope:
        """What the service functions of the API's routes take."""
        return WorkspaceScope(self.caller, self.caller.org_id, self.workspace.id)

    def can(self, role: Role) -> bool:
        """Return whether the caller has at least ROLE."""
        return self.caller.role is not None and self.caller.role >= role

    def url(self, path: str, **query: Any) -> str:
        """Return the address of another page of this workspace."""
        given = {name: value for name, value in query.items() if value not in (None, "")}
        return f"/ws/{self.workspace.slug}/{path}" + (f"?{urlencode(given, True)}" if given else "")

    def render(self, template: str, *, status: int = 200, **context: Any) -> Response:
        """Return the page; its template also has `workspace`, `url()` and the caller's role."""
        known = {
            "workspace": self.workspace,
            "url": self.url,
            "is_member": self.can(Role.MEMBER),
            "is_admin": self.can(Role.ADMIN),
        }
        # Not `super()`: `slots=True` makes another class of this one.
        return Page.render(self, template, status=status, **known, **context)


async def any_page(request: Request, caller: SignedIn) -> Page:
    """Return a page outside of any workspace."""
    return Page(request, caller)


def in_workspace(role: Role) -> Callable[..., Awaitable[WorkspacePage]]:
    """Return a dependency: a page in the path's workspace, for a caller with at least ROLE."""

    async def dependency(
        request: Request, ws: WorkspaceSlug, caller: SignedIn, database: InDatabase
    ) -> WorkspacePage:
        workspace = await find_workspace(database, caller.org_id, ws)
        request.state.workspace = workspace
        need(caller, role)
        return WorkspacePage(request, caller, workspace)

    return dependency


AnyPage = Annotated[Page, Depends(any_page)]
ReaderPage = Annotated[WorkspacePage, Depends(in_workspace(Role.READER))]
MemberPage = Annotated[WorkspacePage, Depends(in_workspace(Role.MEMBER))]
AdminPage = Annotated[WorkspacePage, Depends(in_workspace(Role.ADMIN))]


async def check_form(request: Request) -> None:
    """Return if a request that changes something was sent by a page of ours.

    Raises:
        Forbidden: the form's token is missing or wrong.
        Unauthenticated: there is no session.
    """
    if request.method in SAFE_METHODS:
        return
    cookies: Cookies = request.app.state.cookies
    if request.url.path == SIGN_IN:
        secret = cookies.sign_in(request.headers)
    else:
        secret = cookies.session(request.headers)
        await signed_in(request)
    sent = request.headers.get("x-form-token")
    if sent is None:
        sent = str((await request.form()).get("form_token", ""))
    check_form_token(secret, sent if secret else "")
