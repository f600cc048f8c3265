"""Real connections: the limits on heads, bodies and connections, and where the server listens."""

import asyncio
import contextlib
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest

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
async def test_bytes_that_are_not_a_request_are_refused_in_the_envelope_and_the_service_continues(
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
async def test_an_interrupted_body_leaves_nothing(service: Any) -> None:
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
def test_it_listens_on_loopback_by_default_and_warns_without_tls(
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


async def closed(reader: asyncio.StreamReader) -> bytes:
    """Return what is received until the server closes the connection."""
    try:
        async with asyncio.timeout(60):
            return await reader.read()
    except ConnectionResetError:
        return b""


@one_database
@pytest.mark.parametrize(
    "pieces",
    [
        pytest.param([b""], id="nothing"),
        pytest.param([b"\r\n"] * 5, id="empty lines"),
        pytest.param([START, b"X-A: 1\r\n", b"X-B: 2\r\n"], id="a head that never ends"),
        pytest.param([START + b"\r\n"], id="a connection that stays idle after a response"),
    ],
)
async def test_a_connection_without_a_complete_head_is_closed(
    service: Any, pieces: list[bytes]
) -> None:
    service.environ["DREADNODE_HEAD_SECONDS"] = "1"
    service.start("serve")
    reader, writer = await asyncio.open_connection("127.0.0.1", service.port)

    for piece in pieces:
        writer.write(piece)
        await asyncio.sleep(0.1)

    received = await closed(reader)
    assert received == b"" or b"200 OK" in received
    writer.close()


@one_database
@pytest.mark.parametrize(
    "path", ["/api/v1/org/acme/tokens", "/api/v1/org/acme/datasets/rows/1.0.0"]
)
async def test_a_body_that_stops_arriving_is_refused(service: Any, path: str) -> None:
    service.environ["DREADNODE_SILENCE_SECONDS"] = "1"
    service.start("serve")
    method = b"PUT" if "datasets" in path else b"POST"
    head = (
        method + b" " + path.encode() + b" HTTP/1.1\r\nHost: x\r\nContent-Type: application/json"
        b"\r\nAuthorization: Bearer " + service.api.keys["admin"].encode()
    )

    status, _, body = await exchange(service.port, head + b"\r\nContent-Length: 99\r\n\r\n{")

    assert status == 400
    assert "stopped arriving" in body["detail"]


@one_database
async def test_a_client_that_stops_reading_is_disconnected(service: Any) -> None:
    service.environ["DREADNODE_SILENCE_SECONDS"] = "1"
    rows = b'{"prompt": "%s"}\n' % (b"x" * 1000) * 20_000
    await service.api.push(body=rows)
    service.start("serve")
    reader, writer = await asyncio.open_connection("127.0.0.1", service.port, limit=2**16)
    writer.write(
        b"GET /api/v1/org/acme/datasets/rows/1.0.0/content HTTP/1.1\r\nHost: x\r\n"
        b"Authorization: Bearer " + service.api.keys["admin"].encode() + b"\r\n\r\n"
    )
    await reader.readuntil(b"\r\n\r\n")

    log = service.api.settings.data_dir / "serve.log"
    async with asyncio.timeout(60):
        while "/content" not in log.read_text():
            await asyncio.sleep(0.1)

    assert len(await closed(reader)) < len(rows)
    writer.close()


@one_database
async def test_too_many_connections_close_idle_ones_and_never_busy_ones(service: Any) -> None:
    service.environ["DREADNODE_MAX_CONNECTIONS"] = "20"
    service.start("serve")
    key = service.api.keys["admin"].encode()
    busy = await asyncio.open_connection("127.0.0.1", service.port)
    busy[1].write(
        b"PUT /api/v1/org/acme/datasets/rows/1.0.0 HTTP/1.1\r\nHost: x\r\n"
        b"Authorization: Bearer " + key + b"\r\nContent-Length: 9\r\n\r\n{"
    )
    await busy[1].drain()
    async with asyncio.timeout(30):
        # Its upload has started when its file exists.
        while not list((service.api.settings.data_dir).rglob(".incoming-*")):
            await asyncio.sleep(0.05)
    idle = [await asyncio.open_connection("127.0.0.1", service.port) for _ in range(60)]

    status, _, body = await exchange(service.port, START + b"\r\n")
    busy[1].write(b'"a": 1}\n')
    head = await asyncio.wait_for(busy[0].readuntil(b"\r\n"), 30)

    assert (status, body) == (200, {"status": "ok"})
    assert b"201" in head
    for _, writer in [busy, *idle]:
        writer.close()


@one_database
async def test_a_connection_beyond_busy_ones_is_refused_with_retry_after(
    service: Any,
) -> None:
    # One organization has at most half of all requests, so two of them fill the server.
    service.environ["DREADNODE_MAX_CONNECTIONS"] = "6"
    service.start("serve")
    uploads = []
    for number in range(6):
        org, key = ("acme", "admin") if number % 2 else ("other", "stranger")
        uploads.append(await asyncio.open_connection("127.0.0.1", service.port))
        head = (
            f"PUT /api/v1/org/{org}/datasets/rows/1.0.{number} HTTP/1.1\r\nHost: x\r\n"
            f"X-API-Key: {service.api.keys[key]}\r\nContent-Length: 9\r\n\r\n{{"
        )
        uploads[-1][1].write(head.encode())
    async with asyncio.timeout(30):
        while len(list(service.api.settings.data_dir.rglob(".incoming-*"))) < 6:
            await asyncio.sleep(0.05)

    refusals = [await exchange(service.port, START + b"\r\n") for _ in range(5)]

    for status, headers, body in refusals:
        assert (status, body["type"]) == (503, "server_error")
        assert int(headers["retry-after"]) > 0
    log = (service.api.settings.data_dir / "serve.log").read_text()
    assert log.count("refused a connection") == 1
    for _, writer in uploads:
        writer.close()


@one_database
@pytest.mark.parametrize(
    "line",
    [
        b"POST /api/v1/org/acme/tokens",
        b"PUT /api/v1/org/acme/datasets/rows/1.0.0",
        b"PUT /api/v1/acme/rows/blobs/uploads/" + b"0" * 32 + b"?digest=sha256:" + b"0" * 64,
        b"PUT /api/v1/acme/rows/manifests/1.0.0",
        b"POST /api/v1/org/acme/ws/lab/training/jobs/x/progress",
        b"POST /api/v1/nowhere",
    ],
)
@pytest.mark.parametrize("token", [b"", b"Authorization: Bearer dn_invented\r\n"])
async def test_the_token_is_checked_before_the_body_arrives(
    service: Any, line: bytes, token: bytes
) -> None:
    service.start("serve")
    head = line + b" HTTP/1.1\r\nHost: x\r\n" + token

    # The client waits for permission to send its body, and never gets it.
    status, _, body = await exchange(
        service.port, head + b"Content-Length: 100\r\nExpect: 100-continue\r\n\r\n"
    )

    assert (status, body["type"]) == (401, "authentication_error")


@one_database
async def test_reading_an_upload_ends_when_its_client_disconnects(service: Any) -> None:
    service.start("serve")
    path = "/api/v1/org/acme/datasets/rows/1.0.0"
    body = b'{"prompt": "hang", "response": "b"}\n'
    head = (
        f"PUT {path} HTTP/1.1\r\nHost: x\r\nX-API-Key: {service.api.keys['admin']}\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    )
    serve = psutil.Process(service.processes["serve"][-1].pid)

    def reading() -> list[psutil.Process]:
        found = []
        for each in serve.children(recursive=True):
            with contextlib.suppress(psutil.Error):
                found += [each] if each.cmdline()[-1:] == ["rows"] else []
        return found

    _, writer = await asyncio.open_connection("127.0.0.1", service.port)
    writer.write(head.encode() + body)
    async with asyncio.timeout(60):
        while not reading():
            await asyncio.sleep(0.05)
        writer.close()
        while reading():
            await asyncio.sleep(0.05)
    missing = await service.api("GET", path.removeprefix("/api/v1"))

    assert missing.status_code == 404
