"""Amounts that organizations share: what all of them use together, and at most half for one."""

from collections import Counter
from typing import Self

from dreadnode_api.errors import TooManyRequests, Unavailable

RETRY_SECONDS = 5


class SharedAmount:
    """An amount of something, such as requests at the same time or bytes in memory.

    Args:
        limit: what all organizations may use together.
        what: what is used, in the plural, for the message of a refusal.
        most: what one organization may use; half of the limit by default.
    """

    def __init__(self, limit: int, what: str, *, most: int | None = None) -> None:
        self._limit = limit
        self._most = max(1, limit // 2) if most is None else most
        self._what = what
        self._used: Counter[str] = Counter()
        self.used = 0

    def change(self, org_id: str | None, by: int) -> None:
        """Use BY more for an organization, or less if it is negative.

        Args:
            org_id: the organization; None for a request that needs no token.
            by: how much.

        Raises:
            TooManyRequests: the organization would use more than its share.
            Unavailable: all together would use more than the limit.
        """
        group = org_id or ""
        if by > 0 and org_id is not None and self._used[group] + by > self._most:
            self._forget(group)
            raise TooManyRequests(
                f"Your organization has too many {self._what} at the same time; wait until some "
                "have ended",
                headers={"Retry-After": str(RETRY_SECONDS)},
            )
        if by > 0 and self.used + by > self._limit:
            self._forget(group)
            raise Unavailable(
                f"The server has too many {self._what} at the same time; try again in a few seconds"
            )
        self.used += by
        self._used[group] += by
        self._forget(group)

    def _forget(self, group: str) -> None:
        if not self._used[group]:
            del self._used[group]


class Share:
    """What one request uses of a shared amount, given back at the end of the block."""

    def __init__(self, amount: SharedAmount, org_id: str | None, size: int = 0) -> None:
        self._amount = amount
        self._org_id = org_id
        self._size = 0
        self._initial = size

    def __enter__(self) -> Self:
        self.grow(self._initial)
        return self

    def __exit__(self, *_: object) -> None:
        self._amount.change(self._org_id, -self._size)

    def grow(self, size: int) -> None:
        """Extend the share to SIZE."""
        self._amount.change(self._org_id, size - self._size)
        self._size = size
