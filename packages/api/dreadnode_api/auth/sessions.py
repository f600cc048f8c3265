"""Browser sessions: a sign-in to the console with an API token, its cookie, and its form tokens.

The cookie holds 256 random bits of which the database has the hash only, so nobody who reads the
database can sign in. The session refers to the row of its API token and ends with it. The token of
a form (CSRF) is derived from the cookie, which neither scripts nor other sites can read.
"""

import hashlib
import hmac
import secrets
from datetime import timedelta

from sqlalchemy import delete
from sqlalchemy.ext.asyncio import AsyncSession

from dreadnode_api.auth import tokens
from dreadnode_api.auth.callers import Caller
from dreadnode_api.errors import Forbidden
from dreadnode_api.models.auth import BrowserSession
from dreadnode_api.models.base import now

SESSION_TIME = timedelta(days=14)
"""How long a session lasts if its token lasts longer."""


def new_secret() -> str:
    """Return what a new cookie holds."""
    return secrets.token_urlsafe(32)


async def start_session(session: AsyncSession, caller: Caller) -> str:
    """Store a session of CALLER's token, and return what its cookie holds.

    Raises:
        Forbidden: the token is a sandbox's.
    """
    if caller.role is None:
        raise Forbidden("This is the token of a job, which cannot sign in; use your own API token")
    secret = new_secret()
    session.add(
        BrowserSession(
            sha256=tokens.sha256(secret),
            token_id=caller.token_id,
            expires_at=now() + SESSION_TIME,
        )
    )
    return secret


async def end_session(session: AsyncSession, secret: str) -> None:
    """Delete a session."""
    await session.execute(
        delete(BrowserSession).where(BrowserSession.sha256 == tokens.sha256(secret))
    )


def form_token(secret: str) -> str:
    """Return the token that a form must send along with the cookie that holds SECRET."""
    return hmac.new(secret.encode(), b"form", hashlib.sha256).hexdigest()


def check_form_token(secret: str, sent: str) -> None:
    """Return if a form was sent by a page of ours.

    Raises:
        Forbidden: the form's token is missing or belongs to another session.
    """
    if not hmac.compare_digest(form_token(secret).encode(), sent.encode("utf-8", "replace")):
        raise Forbidden("This form has expired or was not sent by this site; reload the page")
