"""Keys: the engine's master key, run keys derived from it, and signed download addresses.

A run key is `tml-run.{subject}.{expires}.{hmac}`. The holder of the master key makes one without a
call to the engine, and the engine checks it without a record of it.
"""

import hashlib
import hmac
import os
import secrets
from dataclasses import dataclass
from pathlib import Path

from dreadnode_engine.errors import Refused, Unauthorized

PREFIX = "tml-"
"""The SDK sends only keys with this prefix."""
RUN_PREFIX = "tml-run."
MASTER = ""
"""The owner of what was made with the master key."""


@dataclass(frozen=True)
class Principal:
    """Who sends a request; `subject` is empty for the holder of the master key."""

    subject: str

    def can_access(self, owner: str) -> bool:
        """Whether this principal may read and change what OWNER made."""
        return self.subject in (MASTER, owner)


class Keyring:
    """Checks keys and signs addresses with one master key."""

    def __init__(self, master: str) -> None:
        if not master.startswith(PREFIX) or master.startswith(RUN_PREFIX) or len(master) < 12:
            raise Refused(
                f"The engine's master key must start with `{PREFIX}` and be at least "
                "12 characters long; set DREADNODE_ENGINE_KEY to such a key or unset it"
            )
        self._master = master.encode()

    @property
    def master(self) -> str:
        """The master key."""
        return self._master.decode()

    def verify(self, key: str | None, now: float) -> Principal:
        """Return the holder of KEY at NOW (seconds since the epoch), or raise `Unauthorized`."""
        if not key:
            raise Unauthorized("Send a key in the header `X-API-Key`")
        if hmac.compare_digest(key.encode(), self._master):
            return Principal(MASTER)
        subject, expires, signature = _parts(key)
        if not hmac.compare_digest(signature.encode(), self._sign(f"{subject}.{expires}").encode()):
            raise Unauthorized("The key is not valid for this engine")
        if float(expires) <= now:
            raise Unauthorized("The run key has expired; request a new one")
        return Principal(subject)

    def run_key(self, subject: str, expires: int) -> str:
        """Return the key of SUBJECT that is valid until EXPIRES (seconds since the epoch)."""
        return f"{RUN_PREFIX}{subject}.{expires}.{self._sign(f'{subject}.{expires}')}"

    def sign_path(self, path: str, expires: int) -> str:
        """Return the signature that opens the file PATH without a key until EXPIRES."""
        return self._sign(f"file:{path}:{expires}")

    def verifies_path(self, path: str, expires: str, signature: str, now: float) -> bool:
        """Whether SIGNATURE opens the file PATH at the time NOW."""
        if not (expires.isascii() and expires.isdigit()) or float(expires) <= now:
            return False
        expected = self._sign(f"file:{path}:{expires}")
        return hmac.compare_digest(signature.encode(), expected.encode())

    def _sign(self, text: str) -> str:
        return hmac.new(self._master, text.encode(), hashlib.sha256).hexdigest()


def _parts(key: str) -> tuple[str, str, str]:
    parts = key.removeprefix(RUN_PREFIX).rsplit(".", 2)
    well_formed = key.startswith(RUN_PREFIX) and len(parts) == 3 and parts[0] != MASTER
    if not well_formed or not (parts[1].isascii() and parts[1].isdigit()):
        raise Unauthorized("The key is not valid for this engine")
    return parts[0], parts[1], parts[2]


def master_key(data_dir: Path) -> str:
    """Return the master key from the environment, or from DATA_DIR/engine.key, made if absent."""
    if key := os.environ.get("DREADNODE_ENGINE_KEY"):
        return key
    path = data_dir / "engine.key"
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        return path.read_text().strip()
    with os.fdopen(descriptor, "w") as file:
        file.write(PREFIX + secrets.token_urlsafe(32))
    return path.read_text().strip()
