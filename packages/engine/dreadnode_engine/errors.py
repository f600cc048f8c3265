"""The engine's errors.

Refused            the request is not accepted; an HTTP status, and nothing was written
  Unauthorized     401
  NotFound         404
  Gone             410
  RateLimited      429
  Overloaded       503
OperationFailed    an accepted request failed in its turn and left its run as it was
StoppedBeforeCommit  the engine stops while its journal cannot be written
"""


class Refused(Exception):
    """A request that is not accepted: `status` is the HTTP status, the text is for people."""

    status = 400


class Unauthorized(Refused):
    """A missing or unknown key. The SDK does not retry a 401."""

    status = 401


class NotFound(Refused):
    """Something that does not exist, or that belongs to another owner: the answer is the same."""

    status = 404


class Gone(Refused):
    """A result that is no longer kept. The SDK sends a dropped sampling request again."""

    status = 410


class RateLimited(Refused):
    """Too much of one client. The SDK waits and sends it again."""

    status = 429


class Overloaded(Refused):
    """Too much of all clients together. The SDK waits and sends it again."""

    status = 503


class StoppedBeforeCommit(Exception):
    """The engine stops while its journal cannot be written; the next start computes again."""


class OperationFailed(Exception):
    """An accepted operation that failed; `category` is the SDK's: user or server."""

    def __init__(self, message: str, category: str = "user") -> None:
        super().__init__(message)
        self.category = category
