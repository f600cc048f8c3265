"""Webhooks: made by administrators, told of every change of state, and of nowhere else."""

import asyncio
import base64
import contextlib
import hashlib
import hmac
import ipaddress
import json
import time
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import pytest
from dreadnode_api.errors import Invalid
from dreadnode_api.jobs import queue
from dreadnode_api.models.base import now
from dreadnode_api.models.webhooks import Announcement, Delivery, Webhook
from dreadnode_api.webhooks.addresses import NotAllowed, check_address, check_url, resolve
from dreadnode_api.webhooks.delivery import Deliverer, Sender
from dreadnode_api.webhooks.shares import Due, Shares
from sqlalchemy import func, select, update

HOOKS = "/org/acme/ws/lab/webhooks"
URL = "https://hooks.example.com/training"


@dataclass
class Receiver:
    """Takes what is sent, or fails as told."""

    status: int = 200
    failure: Exception | None = None
    got: list[tuple[str, dict[str, Any], Mapping[str, str]]] = field(default_factory=list)

    async def __call__(self, url: str, body: str, headers: Mapping[str, str]) -> int:
        self.got.append((url, json.loads(body), headers))
        if self.failure is not None:
            raise self.failure
        return self.status

    @property
    def states(self) -> list[str]:
        return [body["type"] for _, body, _ in self.got]


async def register(api: Any, **body: Any) -> dict[str, Any]:
    answer = await api("POST", HOOKS, json={"url": URL, **body})
    assert answer.status_code == 201, answer.text
    made: dict[str, Any] = answer.json()
    return made


async def drain(deliverer: Deliverer) -> None:
    while await deliverer.once():
        pass


async def end(api: Any, job_id: str, key: str) -> None:
    path = f"{api.jobs}/{job_id}/progress"
    answer = await api("POST", path, key=key, json={"event_type": "training_end"})
    assert answer.status_code == 200, answer.text


async def test_every_change_of_a_jobs_status_is_sent_once_in_a_signed_message(api: Any) -> None:
    hook = await register(api)
    await api.push()
    job = await api.job(name="nightly")
    _, key = await api.start()
    await end(api, job["id"], key)
    receiver = Receiver()

    deliverer = Deliverer(api.settings, api.database, receiver)
    await drain(deliverer)
    await drain(deliverer)

    assert sorted(receiver.states) == ["job.completed", "job.queued", "job.running"]
    url, body, headers = next(got for got in receiver.got if got[1]["type"] == "job.completed")
    assert url == URL
    assert body["data"]["id"] == job["id"]
    assert body["data"]["name"] == "nightly"
    sequences = {b["type"]: b["data"]["sequence"] for _, b, _ in receiver.got}
    assert sequences["job.queued"] < sequences["job.running"] < sequences["job.completed"]
    secret = base64.b64decode(hook["secret"].removeprefix("whsec_"))
    text = json.dumps(body, ensure_ascii=False, separators=(",", ":"))
    signed = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.{text}".encode()
    expected = base64.b64encode(hmac.new(secret, signed, hashlib.sha256).digest()).decode()
    assert headers["webhook-signature"] == f"v1,{expected}"


async def test_a_status_that_is_rolled_back_is_not_sent(api: Any) -> None:
    await api.push()
    await api.job()
    async with api.database.writing() as session:
        announced = await session.scalar(select(func.count()).select_from(Announcement))
    with contextlib.suppress(RuntimeError):
        async with api.database.writing() as session:
            assert await queue.claim(session, "host", 60, 1) is not None
            raise RuntimeError

    async with api.database.reading() as session:
        still = await session.scalar(select(func.count()).select_from(Announcement))
    assert still == announced == 1


async def test_a_webhook_gets_only_its_statuses_and_none_from_before_it(
    api: Any,
) -> None:
    await api.push()
    job = await api.job()
    await register(api, statuses=["completed", "failed"])
    _, key = await api.start()
    await end(api, job["id"], key)
    receiver = Receiver()

    await drain(Deliverer(api.settings, api.database, receiver))

    assert receiver.states == ["job.completed"]


async def test_a_failed_delivery_is_sent_again_later_with_the_same_id(api: Any) -> None:
    hook = await register(api, statuses=["queued"])
    await api.push()
    await api.job()
    receiver = Receiver(status=503)
    deliverer = Deliverer(api.settings, api.database, receiver)

    await drain(deliverer)

    [waiting] = (await api("GET", f"{HOOKS}/{hook['id']}/deliveries")).json()["items"]
    assert (waiting["attempts"], waiting["last_status"]) == (1, 503)
    assert waiting["last_error"] == "the response has the status 503"
    assert waiting["delivered_at"] is None
    receiver.status = 204
    await due(api)
    # The next dispatcher does not know that this webhook pauses.
    await drain(Deliverer(api.settings, api.database, receiver))
    [arrived] = (await api("GET", f"{HOOKS}/{hook['id']}/deliveries")).json()["items"]
    assert (arrived["attempts"], arrived["last_error"], arrived["next_at"]) == (2, None, None)
    assert len({headers["webhook-id"] for _, _, headers in receiver.got}) == 1


async def due(api: Any, **more: Any) -> None:
    """Let the time come for every delivery that waits."""
    async with api.database.writing() as session:
        waiting = update(Delivery).where(Delivery.next_at.is_not(None))
        await session.execute(waiting.values(next_at=now() - timedelta(seconds=1), **more))


async def test_the_pauses_grow_until_a_delivery_fails_for_good_and_is_shown(api: Any) -> None:
    hook = await register(api, statuses=["queued"])
    await api.push()
    await api.job()
    receiver = Receiver(failure=ConnectionRefusedError("nobody listens"))
    pauses = []
    for _ in range(4):
        await drain(Deliverer(api.settings, api.database, receiver))
        async with api.database.reading() as session:
            row = (await session.scalars(select(Delivery))).one()
        pauses.append((row.next_at - now()).total_seconds())
        await due(api)
    assert pauses == sorted(pauses)
    assert pauses[-1] > 4 * pauses[0]

    await due(api, created_at=now() - timedelta(days=2))
    await drain(Deliverer(api.settings, api.database, receiver))

    [shown] = (await api("GET", HOOKS)).json()["items"]
    assert (shown["given_up"], shown["waiting"], shown["delivered"]) == (1, 0, 0)
    assert shown["last_error"] == "nobody listens"
    await due(api)
    assert not await Deliverer(api.settings, api.database, receiver).once()
    [given_up] = (await api("GET", f"{HOOKS}/{hook['id']}/deliveries")).json()["items"]
    assert given_up["given_up_at"] is not None


async def test_a_delivery_reserved_by_a_dead_dispatcher_is_sent_by_the_next(api: Any) -> None:
    await register(api, statuses=["queued"])
    await api.push()
    await api.job()

    class Killed(BaseException):
        pass

    async def die(*_: Any) -> int:
        raise Killed

    with pytest.raises(Killed):
        await Deliverer(api.settings, api.database, die).once()
    receiver = Receiver()
    deliverer = Deliverer(api.settings, api.database, receiver)
    await drain(deliverer)
    assert receiver.got == []  # It is held for as long as the first may still be sending.

    await due(api)
    await drain(deliverer)

    assert receiver.states == ["job.queued"]


async def test_the_secret_is_shown_once_and_only_administrators_see_webhooks(api: Any) -> None:
    hook = await register(api)

    assert hook["secret"].startswith("whsec_")
    listed = (await api("GET", HOOKS)).text
    assert hook["secret"] not in listed
    for key, status in (("member", 403), ("reader", 403), ("stranger", 404), (None, 401)):
        assert (await api("GET", HOOKS, key=key)).status_code == status
        assert (await api("POST", HOOKS, key=key, json={"url": URL})).status_code == status
        path = f"{HOOKS}/{hook['id']}"
        assert (await api("DELETE", path, key=key)).status_code == status


async def test_a_deleted_webhook_gets_no_more_messages(api: Any) -> None:
    hook = await register(api)
    await api.push()
    await api.job()
    receiver = Receiver(status=500)
    await drain(Deliverer(api.settings, api.database, receiver))
    receiver.got.clear()

    assert (await api("DELETE", f"{HOOKS}/{hook['id']}")).status_code == 200

    await drain(Deliverer(api.settings, api.database, receiver))
    assert receiver.got == []
    assert (await api("DELETE", f"{HOOKS}/{hook['id']}")).status_code == 404


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("http://example.com/", "must begin with `https://`"),
        ("ftp://127.0.0.1/", "must begin with `https://`"),
        ("https://", "This is not a URL"),
        ("https://example.com:99999/", "This is not a URL"),
        ("https://exa mple.com/", "This is not a URL"),
        ("https://user:pass@example.com/", "Remove user and password"),
        ("https://example.com/#part", "Remove the part after `#`"),
        ("https://169.254.169.254/latest/meta-data", "are never allowed"),
        ("https://[fe80::1]/", "are never allowed"),
        ("https://[::ffff:169.254.169.254]/", "are never allowed"),
        ("https://2852039166/", "are never allowed"),
        ("https://0.0.0.0/", "are never allowed"),
        ("https://224.0.0.1/", "are never allowed"),
    ],
)
async def test_a_forbidden_webhook_address_is_refused(api: Any, url: str, words: str) -> None:
    answer = await api("POST", HOOKS, json={"url": url})

    assert answer.status_code == 422, answer.text
    assert words in answer.json()["detail"]
    assert (await api("GET", HOOKS)).json() == {"items": []}


@pytest.mark.parametrize("url", ["https://10.0.0.5/", "https://localhost/", "http://127.0.0.1:9/"])
def test_private_addresses_need_the_operators_permission(url: str) -> None:
    check_url(url, "any")

    with pytest.raises(Invalid):
        check_url(url, "public")


@pytest.mark.parametrize("address", ["100.64.0.1", "fd00::1", "64:ff9b::a00:1", "2002:a00:1::"])
def test_alternative_notations_of_private_addresses_are_private(address: str) -> None:
    with pytest.raises(NotAllowed):
        check_address(ipaddress.ip_address(address), "public")


async def test_a_name_that_resolves_to_this_machine_is_refused_at_delivery() -> None:
    with pytest.raises(NotAllowed, match="is not a public address"):
        await resolve("https://localhost/", "public")


@pytest.fixture
async def listener() -> AsyncIterator[tuple[str, list[bytes]]]:
    """A real server on this machine that redirects, by its address, and what it was sent."""
    seen: list[bytes] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
        seen.append(head + await reader.readexactly(length))
        writer.write(b"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:1/\r\n")
        writer.write(b"Content-Length: 0\r\nConnection: close\r\n\r\n")
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    yield f"http://localhost:{server.sockets[0].getsockname()[1]}/hook?x=1", seen
    server.close()


async def test_a_message_is_posted_and_a_redirect_is_not_followed(
    listener: tuple[str, list[bytes]],
) -> None:
    url, seen = listener

    status = await Sender("any", 5)(url, '{"type":"job.queued"}', {"webhook-id": "1"})

    assert status == 302
    [request] = seen
    assert request.startswith(b"POST /hook?x=1 HTTP/1.1\r\n")
    assert b"\r\nhost: localhost:" in request.lower()
    assert request.endswith(b'{"type":"job.queued"}')


async def test_a_slow_receiver_delays_no_other(api: Any) -> None:
    for name in ("slow", "quick"):
        await register(api, url=f"https://{name}.example.com/", statuses=["queued"])
    await api.push()
    arrived: list[str] = []
    quick_twice = asyncio.Event()

    async def post(url: str, body: str, headers: Mapping[str, str]) -> int:
        if "slow" in url:
            await asyncio.Event().wait()
        arrived.append(url)
        if len(arrived) == 2:
            quick_twice.set()
        return 200

    delivering = asyncio.create_task(Deliverer(api.settings, api.database, post).run())
    await api.job()
    while not arrived:
        await asyncio.sleep(0.02)
    await api.job()

    async with asyncio.timeout(20):
        await quick_twice.wait()
    delivering.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await delivering

    assert arrived == ["https://quick.example.com/"] * 2


async def test_a_name_that_cannot_be_resolved_is_reported_and_fails_for_good_in_time(
    api: Any,
) -> None:
    hook = await register(api, url=f"https://{'a' * 70}.example.com/", statuses=["queued"])
    await api.push()
    await api.job()

    settings = api.settings.model_copy(update={"webhook_give_up_seconds": 0.0})
    await drain(Deliverer(settings, api.database))

    [shown] = (await api("GET", f"{HOOKS}/{hook['id']}/deliveries")).json()["items"]
    assert "label" in shown["last_error"]
    assert shown["given_up_at"] is not None


async def test_a_receiver_without_a_response_costs_at_most_the_timeout(api: Any) -> None:
    async def silent(_reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(60)

    server = await asyncio.start_server(silent, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/"
    hook = await register(api, url=url, statuses=["queued"])
    await api.push()
    await api.job()

    settings = api.settings.model_copy(update={"webhook_timeout": 0.2})
    await drain(Deliverer(settings, api.database))

    [shown] = (await api("GET", f"{HOOKS}/{hook['id']}/deliveries")).json()["items"]
    assert shown["last_error"] is not None
    server.close()


def due_of(org: str, *webhooks: str) -> list[Due]:
    return [Due(f"{org}-{n}", webhook, org) for n, webhook in enumerate(webhooks)]


def test_a_webhook_has_two_deliveries_at_a_time_and_an_organization_half_of_all() -> None:
    shares = Shares(10, pause=60)
    greedy = due_of("greedy", *(f"hook-{n}" for n in range(20)), *["hook-0"] * 20)
    modest = due_of("modest", "only", "only", "only", "only")

    chosen = shares.choose([*greedy, *modest], 10)
    shares.start(chosen)
    next_chosen = shares.choose([*greedy, *modest], 10)

    by_org = Counter(each.org_id for each in chosen)
    assert by_org == {"greedy": 5, "modest": 2}
    assert next_chosen == []
    assert shares.unavailable() >= {"only"}


def test_a_failing_webhook_pauses_longer_each_time_and_others_do_not() -> None:
    shares = Shares(10, pause=0.05)
    [failing, other] = due_of("org", "failing", "other")

    shares.start([failing, other])
    shares.end(failing, is_delivered=False)
    shares.end(other, is_delivered=True)
    at_first = shares.unavailable()
    time.sleep(0.06)
    later = shares.unavailable()
    shares.start([failing])
    shares.end(failing, is_delivered=False)
    time.sleep(0.06)
    second_time = shares.unavailable()

    assert (at_first, later, second_time) == ({"failing"}, set(), {"failing"})


async def test_a_slow_webhook_does_not_delay_those_of_another_workspace(api: Any) -> None:
    for number in range(10):
        await register(api, url=f"https://slow.example.com/{number}")
    theirs = "/org/other/ws/lab/webhooks"
    made = await api("POST", theirs, key="stranger", json={"url": "https://fast.example.com/"})
    assert made.status_code == 201
    async with api.database.writing() as session:
        hooks = (await session.scalars(select(Webhook))).all()
        for hook in hooks:
            session.add_all(
                [Delivery(webhook_id=hook.id, job_id="x", number=n, body="{}") for n in range(20)]
            )
    arrived: list[str] = []
    fast_done = asyncio.Event()

    async def post(url: str, body: str, headers: Mapping[str, str]) -> int:
        if "slow" in url:
            await asyncio.sleep(3600)
        arrived.append(url)
        if len(arrived) == 20:
            fast_done.set()
        return 200

    running = asyncio.create_task(Deliverer(api.settings, api.database, post).run())
    async with asyncio.timeout(60):
        await fast_done.wait()
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)

    assert arrived == ["https://fast.example.com/"] * 20
