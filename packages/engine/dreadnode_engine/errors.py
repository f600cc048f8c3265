"""What the engine refuses, drawn as two kinds.

A `Refused` is an HTTP answer: the request was not accepted, and nothing was written.
An `OperationFailed` is a failed promise: the request was accepted in its turn, could not be
done, and left the run exactly as it was.
"""


class Refused(Exception):
    """A request that is not accepted; `status` is the HTTP status, the text is the sentence."""

    status = 400


class Unauthorized(Refused):
    """No key, or one that this engine does not know; the SDK does not retry a 401."""

    status = 401


class NotFound(Refused):
    """Something that does not exist, or belongs to somebody else, which is told the same way."""

    status = 404


class Gone(Refused):
    """A promise whose answer is no longer kept; the SDK sends a lost sample again."""

    status = 410


class StoppedUnwritten(Exception):
    """The engine was asked to stop while its journal could not be written; the work is redone."""


class OperationFailed(Exception):
    """An accepted operation that could not be done; `category` is the SDK's: user or server."""

    def __init__(self, sentence: str, category: str = "user") -> None:
        super().__init__(sentence)
        self.category = category
