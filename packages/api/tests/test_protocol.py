"""What a real connection meets: bounds on what is sent, and where the service listens."""

import asyncio
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from dreadnode_api.http.protocol import Gathered

one_database = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)


async def exchange(port: int, *pieces: bytes) -> tuple[int, dict[str, str], Any]:
    """Send bytes as they are, and return status, headers and body of the answer."""
    async with asyncio.timeout(30):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        try:
            for piece in pieces:
                writer.write(piece)
                await writer.drain()
            head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
            headers = dict(each.lower().split(": ", 1) for each in head[1:] if each)
            body = await reader.readexactly(int(headers["content-length"]))
        finally:
            writer.close()
        return int(head[0].split()[1]), headers, json.loads(body)


START = b"GET /health/live HTTP/1.1\r\nHost: x\r\n"
BROKEN = {
    "no HTTP": b"hello\r\n\r\n",
    "another protocol": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    # They do not end, so that all that was sent is read before it is refused.
    "a header too long": START + b"X-Long: " + b"a" * 70_000,
    "too many headers": START + b"".join(b"X-%d: y\r\n" % n for n in range(7000)),
    "a path too long": b"GET /" + b"a" * 70_000,
    "a length that is none": START + b"Content-Length: -1\r\n\r\n",
    "two lengths": START + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\nab",
    "a header without a name": START + b": y\r\n\r\n",
    "a line break in a header": START + b"X-A: y\r\n evil: \x00\r\n\r\n",
    "a chunk that is none": START + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n",
}


@one_database
async def test_what_is_no_request_is_refused_in_the_envelope_and_the_service_goes_on(
    service: Any,
) -> None:
    service.start("serve")
    for name, sent in BROKEN.items():
        status, headers, body = await exchange(service.port, sent)

        assert (status, body.get("type")) == (400, "invalid_error"), (name, body)
        assert "[" not in body["detail"]
        assert headers["content-type"] == "application/json"
        assert headers["x-request-id"]
        assert headers["x-content-type-options"] == "nosniff"
    status, _, body = await exchange(service.port, START + b"\r\n")
    assert (status, body) == (200, {"status": "ok"})
    log = (service.api.settings.data_dir / "serve.log").read_text()
    assert "Traceback" not in log


@one_database
async def test_a_body_that_breaks_off_leaves_nothing(service: Any) -> None:
    service.start("serve")
    before = await service.api.count()
    key = service.api.keys["admin"].encode()
    reader, writer = await asyncio.open_connection("127.0.0.1", service.port)
    writer.write(
        b"PUT /api/v1/org/acme/datasets/rows/1.0.0 HTTP/1.1\r\nHost: x\r\n"
        b"Authorization: Bearer " + key + b"\r\nContent-Length: 1000\r\n\r\n" + b'{"a": 1}\n'
    )
    await writer.drain()
    await asyncio.sleep(0.2)
    writer.close()
    await asyncio.wait_for(reader.read(), 10)

    listed = await service.api("GET", "/org/acme/datasets")

    assert listed.json()["total"] == before == 0
    blobs = service.api.settings.data_dir / "blobs"
    for _ in range(100):
        left = [path for path in blobs.rglob("*") if path.is_file()]
        if not left:
            break
        await asyncio.sleep(0.1)
    assert left == []


@pytest.mark.parametrize(
    ("host", "address", "warned"),
    [(None, "http://127.0.0.1:", False), ("0.0.0.0", "http://0.0.0.0:", True)],
)
def test_it_listens_on_loopback_unless_told_and_warns_when_it_has_no_tls(
    sqlite_template: Path, tmp_path: Path, host: str | None, address: str, warned: bool
) -> None:
    environment = {
        "PATH": os.environ["PATH"],
        "DREADNODE_DATA_DIR": str(tmp_path),
        "DREADNODE_DATABASE_URL": f"sqlite:///{sqlite_template}",
    }
    command = [sys.executable, "-m", "dreadnode_api", "serve", "--port", "0"]
    server = subprocess.Popen(
        [*command, *(["--host", host] if host else [])],
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert server.stdout is not None
    try:
        ready = server.stdout.readline()
    finally:
        server.terminate()
        _, said = server.communicate(timeout=30)

    assert re.match(f"api ready on {re.escape(address)}\\d+\n", ready)
    assert ("without TLS" in said) == warned


class Wire(asyncio.Transport):
    """A transport that keeps what it is given to send, in pieces."""

    def __init__(self) -> None:
        self.sent: list[bytes] = []
        self.closed = False

    def write(self, data: Any) -> None:
        assert not self.closed
        self.sent.append(bytes(data))

    def close(self) -> None:
        self.closed = True

    abort = close


async def test_what_is_written_in_one_turn_leaves_in_one_piece_and_in_order() -> None:
    wire = Wire()
    gathered = Gathered(wire, asyncio.get_running_loop())

    gathered.write(b"head ")
    gathered.write(b"")
    gathered.write(bytearray(b"body"))
    before = list(wire.sent)
    await asyncio.sleep(0)
    gathered.write(b"more")
    await asyncio.sleep(0)

    assert before == []
    assert wire.sent == [b"head body", b"more"]


async def test_a_large_piece_does_not_wait_and_what_is_left_leaves_before_the_end() -> None:
    wire = Wire()
    gathered = Gathered(wire, asyncio.get_running_loop())

    gathered.write(b"head")
    gathered.write(b"x" * Gathered.MOST)
    at_once = len(wire.sent)
    gathered.write(b"rest")
    gathered.close()
    await asyncio.sleep(0)

    assert at_once == 1
    assert wire.sent[1:] == [b"rest"]
    assert wire.closed


async def test_a_connection_that_is_broken_off_sends_nothing_more() -> None:
    wire = Wire()
    gathered = Gathered(wire, asyncio.get_running_loop())

    gathered.write(b"head")
    gathered.abort()
    await asyncio.sleep(0)

    assert wire.sent == []
