"""The start page, which leads to the workspace, and the list of workspaces."""

from fastapi import APIRouter, Request
from starlette.responses import Response

from dreadnode_api.auth.people import list_workspaces
from dreadnode_api.console.deps import AnyPage, any_page, signed_in
from dreadnode_api.console.layout import redirect
from dreadnode_api.errors import NotFound
from dreadnode_api.http.deps import ReadSession

router = APIRouter()


@router.get("/")
async def start(request: Request, session: ReadSession) -> Response:
    """Go to the jobs of the default workspace; programs get what a path without a route gives."""
    if "text/html" not in request.headers.get("accept", ""):
        raise NotFound("The path `/` does not exist; see `/docs`")
    page = await any_page(request, await signed_in(request))
    found = await list_workspaces(session, page.caller.org_id)
    return redirect(f"/ws/{found[0].slug}/jobs" if found else "/workspaces")


@router.get("/workspaces")
async def workspaces(page: AnyPage, session: ReadSession) -> Response:
    """Show the workspaces of the organization."""
    found = await list_workspaces(session, page.caller.org_id)
    return page.render("workspaces.html", workspaces=found)
