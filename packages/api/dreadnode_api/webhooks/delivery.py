"""The webhook task of the dispatcher: it turns announcements into deliveries and sends them.

A delivery is reserved for a while before it is sent, and its result is stored after, without a
transaction in between. If a dispatcher dies in that time, the next one sends it again: every
message arrives at least once, and a receiver recognizes a repeated message by its `webhook-id`.
"""

import asyncio
import json
import logging
import random
import time
from collections.abc import Awaitable, Callable, Mapping
from datetime import timedelta
from urllib.parse import urlsplit

import httpx2
from sqlalchemy import ColumnElement, func, select
from sqlalchemy.ext.asyncio import AsyncSession

from dreadnode_api import storage_errors
from dreadnode_api.db import Database
from dreadnode_api.models.auth import Workspace
from dreadnode_api.models.base import now
from dreadnode_api.models.jobs import Event, Job
from dreadnode_api.models.webhooks import Announcement, Delivery, Webhook
from dreadnode_api.settings import Settings
from dreadnode_api.webhooks import signing
from dreadnode_api.webhooks.addresses import NotAllowed, resolve
from dreadnode_api.webhooks.shares import LONGEST_PAUSE, PER_WEBHOOK, Due, Shares

log = logging.getLogger(__name__)

BATCH = 100
AT_ONCE = 50
CANDIDATES = 1000
LONGEST_RETRY_PAUSE = 3600.0
RESERVE_MARGIN = 30.0
MAX_ERROR = 300

Reserved = tuple[Due, Delivery, Webhook]
Post = Callable[[str, str, Mapping[str, str]], Awaitable[int]]


class Deliverer:
    """Delivers messages to webhooks until it is cancelled.

    Args:
        settings: the timeouts and pauses.
        database: where the announcements are.
        post: sends a body with headers to a URL, and returns the status of the response.
    """

    def __init__(self, settings: Settings, database: Database, post: Post | None = None) -> None:
        self._settings = settings
        self._database = database
        self._shares = Shares(AT_ONCE, min(settings.webhook_retry_seconds, LONGEST_PAUSE))
        self._post = post or Sender(settings.webhook_targets, settings.webhook_timeout)

    async def run(self) -> None:
        """Deliver what is due, for ever; a slow receiver does not delay others."""
        sending: set[asyncio.Task[None]] = set()
        try:
            while True:
                reserved = []
                if len(sending) < AT_ONCE:
                    try:
                        reserved = await self._take(AT_ONCE - len(sending))
                    except Exception as error:
                        storage_errors.log_failure(log, "webhooks cannot be delivered now", error)
                sending |= {asyncio.create_task(self._deliver(*each)) for each in reserved}
                if not reserved:
                    await asyncio.sleep(self._settings.poll_seconds)
                sending -= {task for task in sending if task.done()}
        finally:
            for task in sending:
                task.cancel()
            # The database is closed next, so nothing may use it any more.
            await asyncio.gather(*sending, return_exceptions=True)

    async def once(self) -> bool:
        """Deliver what is due, and return whether there was anything."""
        was_any = False
        while reserved := await self._take(AT_ONCE):
            was_any = True
            await asyncio.gather(*(self._deliver(*each) for each in reserved))
        return was_any

    async def _take(self, most: int) -> list[Reserved]:
        """Turn announcements into deliveries, and reserve at most MOST that are due."""
        async with self._database.reading() as session:
            announced = await session.scalar(select(Announcement.job_id).limit(1))
        while announced is not None:
            async with self._database.writing() as session:
                if await fan_out(session) < BATCH:
                    break
        async with self._database.reading() as session:
            chosen = {each.id: each for each in await self._choose(session, most)}
        if not chosen:
            return []
        async with self._database.writing() as session:
            reserved = await self._reserve(session, chosen)
        self._shares.start([due for due, _, _ in reserved])
        return reserved

    async def _choose(self, session: AsyncSession, most: int) -> list[Due]:
        """Return the deliveries that are due and may start."""
        place = func.row_number().over(
            partition_by=Delivery.webhook_id, order_by=(Delivery.next_at, Delivery.id)
        )
        first = (
            select(Delivery.id, Delivery.webhook_id, place.label("place"), Delivery.next_at)
            .where(_due(), Delivery.webhook_id.not_in(self._shares.unavailable()))
            .subquery()
        )
        found = await session.execute(
            select(first.c.id, first.c.webhook_id, Workspace.org_id)
            .join(Webhook, Webhook.id == first.c.webhook_id)
            .join(Workspace, Workspace.id == Webhook.workspace_id)
            .where(first.c.place <= PER_WEBHOOK)
            .order_by(first.c.next_at)
            .limit(CANDIDATES)
        )
        return self._shares.choose((Due(*row) for row in found), most)

    async def _reserve(self, session: AsyncSession, chosen: Mapping[str, Due]) -> list[Reserved]:
        found = await session.execute(
            select(Delivery, Webhook)
            .join(Webhook, Webhook.id == Delivery.webhook_id)
            # Another dispatcher may have reserved it since it was chosen.
            .where(Delivery.id.in_(chosen), _due())
            .with_for_update(skip_locked=True, of=Delivery)
        )
        reserved = [(chosen[delivery.id], delivery, webhook) for delivery, webhook in found]
        duration = timedelta(seconds=self._settings.webhook_timeout + RESERVE_MARGIN)
        for _, delivery, _ in reserved:
            delivery.attempts += 1
            delivery.next_at = now() + duration
        return reserved

    async def _deliver(self, due: Due, delivery: Delivery, webhook: Webhook) -> None:
        is_delivered = False
        try:
            is_delivered = await self._send(delivery, webhook)
        finally:
            self._shares.end(due, is_delivered=is_delivered)

    async def _send(self, delivery: Delivery, webhook: Webhook) -> bool:
        """Send a delivery, store the result, and return whether it was delivered."""
        headers = signing.headers(webhook.secret, delivery.id, int(time.time()), delivery.body)
        status, error = None, None
        try:
            status = await self._post(webhook.url, delivery.body, headers)
            if not 200 <= status < 300:
                error = f"the response has the status {status}"
        except (NotAllowed, OSError, httpx2.HTTPError, httpx2.InvalidURL, ValueError) as failure:
            # A `ValueError` is a host name that cannot be resolved, such as one that is too long.
            error = (str(failure) or type(failure).__name__)[:MAX_ERROR]
        try:
            async with self._database.writing() as session:
                row = await session.get(Delivery, delivery.id, with_for_update=True)
                if row is not None and row.next_at is not None:
                    self._settle(row, status, error)
        except Exception as failure:
            # It is sent again when the reservation ends: twice is allowed, never is not.
            storage_errors.log_failure(log, "the result of a delivery cannot be stored", failure)
        return error is None

    def _settle(self, row: Delivery, status: int | None, error: str | None) -> None:
        row.last_status, row.last_error = status, error
        if error is None:
            row.delivered_at, row.next_at = now(), None
            return
        age = (now() - row.created_at).total_seconds()
        if age > self._settings.webhook_give_up_seconds:
            row.given_up_at, row.next_at = now(), None
            log.warning(
                "webhook %s: delivery %s failed for good: %s", row.webhook_id, row.id, error
            )
            return
        pause = self._settings.webhook_retry_seconds * 2 ** min(row.attempts - 1, 20)
        # Deliveries that failed together should not be retried together.
        jitter = random.uniform(0.8, 1.2)  # noqa: S311
        row.next_at = now() + timedelta(seconds=min(pause, LONGEST_RETRY_PAUSE) * jitter)


def _due() -> ColumnElement[bool]:
    # A delivery that waits for longer than any pause was postponed before the clock was set back.
    longest = timedelta(seconds=2 * LONGEST_RETRY_PAUSE)
    return (Delivery.next_at <= now()) | (Delivery.next_at > now() + longest)


async def fan_out(session: AsyncSession) -> int:
    """Turn announcements into one delivery for each webhook that wants it; return how many."""
    found = await session.execute(
        select(Announcement, Event, Job)
        .join(Job, Job.id == Announcement.job_id)
        .join(Event, (Event.job_id == Announcement.job_id) & (Event.number == Announcement.number))
        .order_by(Announcement.created_at, Announcement.number)
        .limit(BATCH)
        .with_for_update(skip_locked=True, of=Announcement)
    )
    announced = list(found)
    for announcement, event, job in announced:
        webhooks = await session.scalars(
            select(Webhook).where(
                Webhook.workspace_id == job.workspace_id,
                Webhook.created_at <= announcement.created_at,
            )
        )
        for webhook in webhooks:
            if not webhook.statuses or event.data["status"] in webhook.statuses:
                session.add(
                    Delivery(
                        webhook_id=webhook.id,
                        job_id=job.id,
                        number=event.number,
                        body=message(job, event),
                    )
                )
        await session.delete(announcement)
    return len(announced)


def message(job: Job, event: Event) -> str:
    """Return the message to a webhook: the status at this event, and the job.

    `sequence` grows with every event of a job, so a receiver can sort messages.
    """
    body = {
        "type": f"job.{event.data['status']}",
        "timestamp": event.created_at.isoformat().replace("+00:00", "Z"),
        "data": {
            "id": job.id,
            "name": job.name,
            "organization_id": job.org_id,
            "workspace_id": job.workspace_id,
            "trainer_type": job.trainer_type,
            "model": job.model,
            "rehearsal": job.rehearsal,
            "status": event.data["status"],
            "attempt": event.data.get("attempt", job.attempt),
            "error_code": event.data.get("error_code"),
            "message": event.message,
            "sequence": event.number,
        },
    }
    return json.dumps(body, ensure_ascii=False, separators=(",", ":"))


class Sender:
    """Posts to webhooks: to the address that was checked, without redirects or response bodies."""

    def __init__(self, targets: str, timeout: float) -> None:
        self._targets = targets
        self._timeout = timeout

    async def __call__(self, url: str, body: str, headers: Mapping[str, str]) -> int:
        """Post BODY to URL and return the status of the response.

        Raises:
            NotAllowed: the host name resolves to an address that is not allowed.
            OSError: the host name cannot be resolved.
            httpx2.HTTPError: there is no response.
            TimeoutError: the delivery takes too long.
        """
        parts = urlsplit(url)
        async with asyncio.timeout(self._timeout):
            address = await resolve(url, self._targets)
            # `trust_env` off: a proxy from the environment would resolve the name again.
            async with httpx2.AsyncClient(trust_env=False, timeout=self._timeout) as client:
                request = client.build_request(
                    "POST",
                    httpx2.URL(url).copy_with(host=address),
                    content=body.encode(),
                    headers={
                        **headers,
                        "Host": parts.netloc,
                        "Content-Type": "application/json",
                        "User-Agent": "dreadnode-webhooks/1",
                    },
                    # The certificate must be that of the host name, not of the address.
                    extensions={"sni_hostname": parts.hostname or ""},
                )
                answer = await client.send(request, stream=True)
                await answer.aclose()
        return answer.status_code
