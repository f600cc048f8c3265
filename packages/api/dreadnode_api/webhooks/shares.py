"""The shares of deliveries: which of those that are due may start now.

One webhook has at most two deliveries under way, and none for a while after a failure. One
organization has at most half of all. Among the rest, the organization with the fewest comes first.
"""

import time
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

PER_WEBHOOK = 2
LONGEST_PAUSE = 60.0


@dataclass(frozen=True, slots=True)
class Due:
    """A delivery that is due."""

    id: str
    webhook_id: str
    org_id: str


class Shares:
    """The deliveries under way of one dispatcher.

    Args:
        at_once: how many there may be.
        pause: the seconds for which a webhook pauses after a failure; each pause doubles.
    """

    def __init__(self, at_once: int, pause: float) -> None:
        self._pause = pause
        self._per_org = max(1, at_once // 2)
        self._of_webhook: Counter[str] = Counter()
        self._of_org: Counter[str] = Counter()
        self._failures: Counter[str] = Counter()
        self._paused_until: dict[str, float] = {}

    def unavailable(self) -> set[str]:
        """Return the webhooks that can start no delivery now."""
        present = time.monotonic()
        full = {webhook for webhook, count in self._of_webhook.items() if count >= PER_WEBHOOK}
        return full | {each for each, until in self._paused_until.items() if until > present}

    def choose(self, due: Iterable[Due], most: int) -> list[Due]:
        """Return at most MOST of the deliveries DUE, oldest first within an organization."""
        waiting: dict[str, list[Due]] = {}
        for each in due:
            waiting.setdefault(each.org_id, []).append(each)
        chosen: list[Due] = []
        of_webhook, of_org = Counter(self._of_webhook), Counter(self._of_org)
        while waiting and len(chosen) < most:
            org = min(waiting, key=lambda each: of_org[each])
            first = _next(waiting[org], of_webhook)
            if first is None or of_org[org] >= self._per_org:
                del waiting[org]
                continue
            chosen.append(first)
            of_webhook[first.webhook_id] += 1
            of_org[org] += 1
        return chosen

    def start(self, chosen: Sequence[Due]) -> None:
        """Count deliveries that start."""
        for each in chosen:
            self._of_webhook[each.webhook_id] += 1
            self._of_org[each.org_id] += 1

    def end(self, each: Due, *, is_delivered: bool) -> None:
        """Count a delivery that has ended; after a failure its webhook pauses."""
        for counter, key in ((self._of_webhook, each.webhook_id), (self._of_org, each.org_id)):
            counter[key] -= 1
            if counter[key] <= 0:
                del counter[key]
        if is_delivered:
            self._failures.pop(each.webhook_id, None)
            self._paused_until.pop(each.webhook_id, None)
            return
        self._failures[each.webhook_id] += 1
        doublings = min(self._failures[each.webhook_id] - 1, 10)
        pause = min(self._pause * 2**doublings, LONGEST_PAUSE)
        self._paused_until[each.webhook_id] = time.monotonic() + pause


def _next(waiting: list[Due], of_webhook: Counter[str]) -> Due | None:
    """Remove and return the first delivery whose webhook may have another one."""
    for position, each in enumerate(waiting):
        if of_webhook[each.webhook_id] < PER_WEBHOOK:
            return waiting.pop(position)
    return None
