"""Limits of requests: token buckets, one a credential or address."""

import ipaddress
import time
from collections import OrderedDict

from starlette.types import Scope

from dreadnode_api.errors import TooManyRequests
from dreadnode_api.settings import Settings

MAX_BUCKETS = 10_000
UNKNOWN_RATE, UNKNOWN_BURST = 2.0, 40
"""How many unknown tokens a second one address may try, on average and at once."""


def network(scope: Scope) -> str:
    """Return the client's address; of IPv6 the /64 network, which is one customer's."""
    client = scope.get("client")
    try:
        address = ipaddress.ip_address(client[0] if client else "")
    except ValueError:
        return ""
    if address.version == 4:
        return str(address)
    return str(ipaddress.ip_network((address, 64), strict=False).network_address)


class Buckets:
    """Token buckets, one a credential: `rate` a second on average, `burst` at once."""

    def __init__(self, rate: float, burst: int) -> None:
        self._rate = rate
        self._burst = float(max(burst, 1))
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def take(self, key: str) -> None:
        """Count one request of KEY.

        Raises:
            TooManyRequests: its bucket is empty; `Retry-After` says for how long.
        """
        if self._rate <= 0:
            return
        present, left = self._left(key)
        is_allowed = left >= 1
        self._buckets[key] = (left - 1 if is_allowed else left, present)
        self._buckets.move_to_end(key)
        if len(self._buckets) > MAX_BUCKETS:
            self._buckets.popitem(last=False)
        if not is_allowed:
            raise self._too_many(left)

    def check(self, key: str) -> None:
        """Return if KEY may make a request, without counting one.

        Raises:
            TooManyRequests: its bucket is empty.
        """
        if self._rate > 0 and (left := self._left(key)[1]) < 1:
            raise self._too_many(left)

    def _left(self, key: str) -> tuple[float, float]:
        present = time.monotonic()
        left, at = self._buckets.get(key, (self._burst, present))
        return present, min(self._burst, left + (present - at) * self._rate)

    def _too_many(self, left: float) -> TooManyRequests:
        seconds = max(1, round((1 - left) / self._rate + 0.5))
        return TooManyRequests(
            f"Too many requests; wait {seconds} s and then send fewer",
            headers={"Retry-After": str(seconds)},
        )


def invented_tokens(settings: Settings) -> Buckets:
    """Return the limit of the tokens that are not valid, in requests and at the sign-in.

    Its keys are networks.
    """
    return Buckets(UNKNOWN_RATE if settings.rate_limit else 0, UNKNOWN_BURST)
