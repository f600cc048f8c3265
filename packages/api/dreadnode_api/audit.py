"""The audit log: one line for each deletion, with the user who did it.

The lines are part of the server's log, under the logger `dreadnode_api.audit`.
"""

import logging

log = logging.getLogger(__name__)


def record(user_id: str | None, org_id: str, action: str, target: str) -> None:
    """Log that a user has done ACTION to TARGET."""
    log.info(
        "audit: user %s %s %s",
        user_id,
        action,
        target,
        extra={"user_id": user_id, "organization_id": org_id, "action": action, "target": target},
    )
