"""API tokens: those that the caller may see, new ones, and their revocation."""

from typing import Annotated, Any

from fastapi import APIRouter, Path
from pydantic import TypeAdapter
from starlette.responses import Response

from dreadnode_api.auth import routes as api
from dreadnode_api.auth.callers import Role
from dreadnode_api.auth.schemas import TokenRequest
from dreadnode_api.console.deps import ReaderPage
from dreadnode_api.console.forms import number, texts, validated
from dreadnode_api.console.layout import redirect
from dreadnode_api.http.deps import InDatabase, InSettings, ReadSession
from dreadnode_api.http.patterns import SLUG
from dreadnode_api.models.base import now

router = APIRouter(prefix="/ws/{ws}/settings/tokens")

SHOWN = 200
_TOKEN = TypeAdapter(TokenRequest)


@router.get("")
async def tokens(page: ReaderPage, session: ReadSession) -> Response:
    """Show the tokens."""
    found = (await api.list_tokens(page.caller, session)).items
    moment = now()
    usable = [
        each
        for each in found
        if each.revoked_at is None and (each.expires_at is None or each.expires_at > moment)
    ]
    mine = page.caller.role or Role.READER
    return page.render(
        "tokens.html",
        tokens=usable[:SHOWN],
        total=len(usable),
        ended=len(found) - len(usable),
        roles=[("", "your role"), *((each.word, each.word) for each in Role if each <= mine)],
        current=page.caller.token_id,
    )


@router.post("")
async def create(page: ReaderPage, database: InDatabase, settings: InSettings) -> Response:
    """Create a token, and show it once."""
    values = await texts(page.request)
    names = ("name", "role", "username")
    body: dict[str, Any] = {name: values[name].strip() for name in names if name in values}
    body["expires_in_days"] = number(values.get("expires_in_days", ""))
    request = validated(_TOKEN, body)
    async with database.writing() as session:
        made = await api.create_token(page.caller, request, session, settings)
    return page.render("new_token.html", token=made, back=page.url("settings/tokens"), member=None)


@router.post("/{token_id}/revoke")
async def revoke(
    page: ReaderPage,
    token_id: Annotated[str, Path(max_length=64, pattern=SLUG)],
    database: InDatabase,
) -> Response:
    """Revoke a token."""
    async with database.writing() as session:
        await api.revoke_token(page.caller, token_id, session)
    return redirect(page.url("settings/tokens"))
