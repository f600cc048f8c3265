"""The dispatcher's second task: announcements become deliveries, and deliveries arrive.

A delivery is held for a while before it is sent, and its outcome is written after, with no
transaction open in between. A dispatcher that dies in that time leaves it to the next: every
message arrives at least once, and its `webhook-id` tells a receiver what it has already.
"""

import asyncio
import json
import logging
import random
import time
from collections.abc import Awaitable, Callable, Mapping
from datetime import timedelta
from urllib.parse import urlsplit

import httpx
from sqlalchemy import ColumnElement, select
from sqlalchemy.ext.asyncio import AsyncSession

from dreadnode_api.db import Database
from dreadnode_api.models.base import now
from dreadnode_api.models.jobs import Event, Job
from dreadnode_api.models.webhooks import Announcement, Delivery, Webhook
from dreadnode_api.settings import Settings
from dreadnode_api.webhooks import signing
from dreadnode_api.webhooks.addresses import NotAllowed, look_up

log = logging.getLogger(__name__)

BATCH = 100
AT_ONCE = 50
LONGEST_PAUSE = 3600.0
HOLD_MARGIN = 30.0
MAX_ERROR = 300

Post = Callable[[str, str, Mapping[str, str]], Awaitable[int]]


class Deliverer:
    """Tells webhooks of changes of state until it is cancelled.

    Args:
        settings: how long to wait, try again and give up.
        database: where the announcements are.
        post: sends a body with headers to an address, and returns the status of the answer.
    """

    def __init__(self, settings: Settings, database: Database, post: Post | None = None) -> None:
        self._settings = settings
        self._database = database
        self._post = post or Sender(settings.webhook_targets, settings.webhook_timeout)

    async def run(self) -> None:
        """Deliver what there is, for ever; a slow receiver holds nobody else up."""
        sending: set[asyncio.Task[None]] = set()
        try:
            while True:
                held = []
                if len(sending) < AT_ONCE:
                    try:
                        held = await self._take(AT_ONCE - len(sending))
                    except Exception:
                        log.exception("webhooks cannot be told right now")
                sending |= {asyncio.create_task(self._deliver(*each)) for each in held}
                if not held:
                    await asyncio.sleep(self._settings.poll_seconds)
                sending -= {task for task in sending if task.done()}
        finally:
            for task in sending:
                task.cancel()
            # The database is closed next: nothing may still be using it.
            await asyncio.gather(*sending, return_exceptions=True)

    async def once(self) -> bool:
        """Deliver what is due, and say whether there was anything."""
        held = await self._take(AT_ONCE)
        await asyncio.gather(*(self._deliver(*each) for each in held))
        return bool(held)

    async def _take(self, most: int) -> list[tuple[Delivery, Webhook]]:
        """Turn announcements into deliveries, and hold at most so many that are due."""
        async with self._database.reading() as session:
            announced = await session.scalar(select(Announcement.job_id).limit(1))
        while announced is not None:
            async with self._database.writing() as session:
                if await fan_out(session) < BATCH:
                    break
        async with self._database.reading() as session:
            due = await session.scalar(select(Delivery.id).where(_due()).limit(1))
        if due is None:
            return []
        async with self._database.writing() as session:
            return await self._hold(session, most)

    async def _hold(self, session: AsyncSession, most: int) -> list[tuple[Delivery, Webhook]]:
        found = await session.execute(
            select(Delivery, Webhook)
            .join(Webhook, Webhook.id == Delivery.webhook_id)
            .where(_due())
            .order_by(Delivery.next_at)
            .limit(most)
            .with_for_update(skip_locked=True, of=Delivery)
        )
        held = [(delivery, webhook) for delivery, webhook in found]
        hold = timedelta(seconds=self._settings.webhook_timeout + HOLD_MARGIN)
        for delivery, _ in held:
            delivery.attempts += 1
            delivery.next_at = now() + hold
        return held

    async def _deliver(self, delivery: Delivery, webhook: Webhook) -> None:
        headers = signing.headers(webhook.secret, delivery.id, int(time.time()), delivery.body)
        status, error = None, None
        try:
            status = await self._post(webhook.url, delivery.body, headers)
            if not 200 <= status < 300:
                error = f"it answered with status {status}"
        except (NotAllowed, OSError, httpx.HTTPError, httpx.InvalidURL, ValueError) as failure:
            # A `ValueError` is a name that cannot be looked up at all, as one that is too long.
            error = (str(failure) or type(failure).__name__)[:MAX_ERROR]
        try:
            async with self._database.writing() as session:
                row = await session.get(Delivery, delivery.id, with_for_update=True)
                if row is not None and row.next_at is not None:
                    self._settle(row, status, error)
        except Exception:
            # It is tried again when its hold ends: twice is allowed, never is not.
            log.exception("what became of delivery %s cannot be written", delivery.id)

    def _settle(self, row: Delivery, status: int | None, error: str | None) -> None:
        row.last_status, row.last_error = status, error
        if error is None:
            row.delivered_at, row.next_at = now(), None
            return
        age = (now() - row.created_at).total_seconds()
        if age > self._settings.webhook_give_up_seconds:
            row.given_up_at, row.next_at = now(), None
            log.warning("webhook %s: gave delivery %s up: %s", row.webhook_id, row.id, error)
            return
        pause = self._settings.webhook_retry_seconds * 2 ** min(row.attempts - 1, 20)
        # A little chance, so that what failed together does not come back together.
        spread = random.uniform(0.8, 1.2)  # noqa: S311
        row.next_at = now() + timedelta(seconds=min(pause, LONGEST_PAUSE) * spread)


def _due() -> ColumnElement[bool]:
    # One that seems to wait for longer than any does was put off before the clock was set back.
    longest = timedelta(seconds=2 * LONGEST_PAUSE)
    return (Delivery.next_at <= now()) | (Delivery.next_at > now() + longest)


async def fan_out(session: AsyncSession) -> int:
    """Turn announcements into a delivery for each webhook that wants to know; return how many."""
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
    """Return what a webhook is told: the state as it was with this event, and whose it is.

    `sequence` grows with every event of a job, so a receiver can order what comes out of order.
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
    """Posts to webhooks: to the address that was checked, without redirects, reading no answer."""

    def __init__(self, targets: str, timeout: float) -> None:
        self._targets = targets
        self._timeout = timeout

    async def __call__(self, url: str, body: str, headers: Mapping[str, str]) -> int:
        """Post `body` to `url` and return the status of the answer.

        Raises:
            NotAllowed: the name stands for an address that must not be called.
            OSError: the name is unknown.
            httpx.HTTPError: nothing answers.
            TimeoutError: it takes too long as a whole.
        """
        parts = urlsplit(url)
        async with asyncio.timeout(self._timeout):
            address = await look_up(url, self._targets)
            # `trust_env` off: a proxy from the environment would look the name up once more.
            async with httpx.AsyncClient(trust_env=False, timeout=self._timeout) as client:
                request = client.build_request(
                    "POST",
                    httpx.URL(url).copy_with(host=address),
                    content=body.encode(),
                    headers={
                        **headers,
                        "Host": parts.netloc,
                        "Content-Type": "application/json",
                        "User-Agent": "dreadnode-webhooks/1",
                    },
                    # The certificate must be the name's, whichever address answers.
                    extensions={"sni_hostname": parts.hostname or ""},
                )
                answer = await client.send(request, stream=True)
                await answer.aclose()
        return answer.status_code
