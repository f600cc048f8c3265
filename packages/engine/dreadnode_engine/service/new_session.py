"""New sessions, from the bodies of the requests that create them."""

import json
import secrets
import time

from tinker.types import CreateSessionRequest

from dreadnode_engine.protocol.validation import json_object, parse_body
from dreadnode_engine.state.records import Session, dump


def new_session(
    owner: str, body: bytes, idempotency_key: str | None, session_id: str | None = None
) -> Session:
    """Return the session that BODY describes, under SESSION_ID or a random id."""
    # The SDK leaves out fields that are null, and its own type requires this one.
    whole = {"user_metadata": None} | json_object(body)
    fields = parse_body(CreateSessionRequest, json.dumps(whole).encode())
    now = time.time()
    return Session(
        id=session_id or secrets.token_hex(16),
        owner=owner,
        created=now,
        seen=now,
        idempotency_key=idempotency_key,
        user_metadata=dump(fields.user_metadata),
        display_name=fields.display_name,
    )
