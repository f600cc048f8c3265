"""Signatures of the Standard Webhooks specification, which its libraries can verify.

webhook-id         the id of the delivery, the same in every attempt
webhook-timestamp  when it was sent, in seconds since 1970; receivers refuse old ones
webhook-signature  `v1,` and the base64 of HMAC-SHA256 over `id.timestamp.body`
"""

import base64
import hashlib
import hmac
import secrets

PREFIX = "whsec_"


def new_secret() -> str:
    """Return a new secret: 256 random bits, in the form that verifying libraries expect."""
    return PREFIX + base64.b64encode(secrets.token_bytes(32)).decode()


def headers(secret: str, message_id: str, timestamp: int, body: str) -> dict[str, str]:
    """Return the headers that sign `body`."""
    key = base64.b64decode(secret.removeprefix(PREFIX))
    content = f"{message_id}.{timestamp}.{body}".encode()
    signature = base64.b64encode(hmac.new(key, content, hashlib.sha256).digest()).decode()
    return {
        "webhook-id": message_id,
        "webhook-timestamp": str(timestamp),
        "webhook-signature": f"v1,{signature}",
    }
