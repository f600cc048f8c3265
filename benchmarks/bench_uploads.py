"""The latency of other requests while eight large files are pushed at the same time.

Every kind of upload is pushed twice at once: JSONL of 24 MB, CSV with 20,000 columns, a JSON
array of 24 MB, and an archive of a capability with 5,000 files. Another process pushes them, so
that its work does not delay the client that measures: that one requests `GET /user` every 20 ms.
Idle and busy times alternate, so both see the same machine.
Aim: the median and the 95th percentile stay below twice the idle ones.

`UPLOAD_ROUNDS` (4 by default).
"""

from __future__ import annotations

import asyncio
import gzip
import hashlib
import io
import json
import os
import statistics
import subprocess
import sys
import tarfile
import tempfile
import time
from typing import Any

import httpx2
from bench_catalog_http import server

PAUSE = 0.02
IDLE_SECONDS = 8.0
ROUNDS = int(os.environ.get("UPLOAD_ROUNDS", "4"))


def jsonl() -> bytes:
    """Return rows of 24 MB."""
    return b'{"prompt": "%s", "response": "yes"}\n' % (b"x" * 200) * 100_000


def csv() -> bytes:
    """Return a table with many columns."""
    header = ",".join(["prompt", "response", *(f"column_{n}" for n in range(20_000))])
    row = ",".join(["a"] * 20_002)
    return f"{header}\n{row}\n{row}\n".encode()


def json_array() -> bytes:
    """Return an array of 24 MB."""
    return (
        b"[" + b",".join([b'{"prompt": "%s", "response": "yes"}' % (b"x" * 200)] * 100_000) + b"]"
    )


def archive() -> bytes:
    """Return a capability with many files."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as tar:
        for number in range(5000):
            member = tarfile.TarInfo(f"agents/{number:05}.md")
            member.size = 10_000
            tar.addfile(member, io.BytesIO(b"x" * 10_000))
    return gzip.compress(packed.getvalue(), 1)


async def push_dataset(client: httpx2.AsyncClient, name: str, kind: str, body: bytes) -> None:
    """Push a dataset and expect that it is stored or refused, but not that the server fails."""
    path = f"/org/main/datasets/{name}/1.0.0"
    answer = await client.put(path, content=body, headers={"Content-Type": kind})
    assert answer.status_code in (201, 422), answer.text


async def push_capability(client: httpx2.AsyncClient, name: str, layer: bytes) -> None:
    """Push a capability's archive."""
    named = []
    for content in (b'{"capability_manifest": {}}', layer):
        digest = f"sha256:{hashlib.sha256(content).hexdigest()}"
        path = f"/main/{name}/blobs/uploads/{'0' * 32}?digest={digest}"
        assert (await client.put(path, content=content)).status_code == 201
        named.append({"mediaType": "x", "digest": digest, "size": len(content)})
    manifest = {
        "config": named[0],
        "layers": [named[1]],
        "annotations": {"io.dreadnode.type": "capability"},
    }
    answer = await client.put(f"/main/{name}/manifests/1.0.0", json=manifest)
    assert answer.status_code == 201, answer.text


async def latencies(client: httpx2.AsyncClient, until: asyncio.Event) -> list[float]:
    """Return how long each request took until the event."""
    found = []
    while not until.is_set():
        started = time.perf_counter()
        answer = await client.get("/user")
        assert answer.status_code == 200
        found.append(time.perf_counter() - started)
        await asyncio.sleep(PAUSE)
    return found


async def push_all(client: httpx2.AsyncClient, round_number: str, layer: bytes) -> None:
    """Push every kind of upload twice, all at the same time."""
    bodies = {"application/x-ndjson": jsonl(), "text/csv": csv(), "application/json": json_array()}
    await asyncio.gather(
        *(
            push_dataset(client, f"{kind.rpartition('/')[2]}-{round_number}-{copy}", kind, body)
            for kind, body in bodies.items()
            for copy in range(2)
        ),
        *(push_capability(client, f"desk-{round_number}-{copy}", layer) for copy in range(2)),
    )


async def push_when_asked(address: str, token: str) -> None:
    """Push everything once for each line on stdin, and print a line when it is stored."""
    layer = archive()
    async with httpx2.AsyncClient(**options(address, token)) as client:
        while line := await asyncio.to_thread(sys.stdin.readline):
            await push_all(client, line.strip(), layer)
            print("stored", flush=True)


def options(address: str, token: str) -> dict[str, Any]:
    """Return the arguments of a client of this server."""
    headers = {"Authorization": f"Bearer {token}"}
    return {"base_url": f"{address}/api/v1", "headers": headers, "timeout": 600}


async def measure(address: str, token: str) -> None:
    """Measure the idle and the busy server in turns, and print the ratios."""
    idle, busy, seconds = list[float](), list[float](), list[float]()
    pushing = await asyncio.create_subprocess_exec(
        *(sys.executable, __file__, address, token),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    assert pushing.stdin is not None
    assert pushing.stdout is not None
    async with httpx2.AsyncClient(**options(address, token)) as client:
        for number in range(ROUNDS):
            done = asyncio.Event()
            asyncio.get_running_loop().call_later(IDLE_SECONDS, done.set)
            idle += await latencies(client, done)
            done = asyncio.Event()
            watching = asyncio.create_task(latencies(client, done))
            started = time.perf_counter()
            pushing.stdin.write(b"%d\n" % number)
            assert await pushing.stdout.readline() == b"stored\n"
            seconds.append(time.perf_counter() - started)
            done.set()
            busy += await watching
    pushing.stdin.close()
    await pushing.wait()
    print(f"eight uploads took {statistics.median(seconds):.1f} s; {len(busy)} requests meanwhile")
    for name, of in (("median", statistics.median), ("95th percentile", _percentile)):
        quiet, loaded = 1000 * of(idle), 1000 * of(busy)
        print(f"{name}: idle {quiet:.1f} ms, busy {loaded:.1f} ms, {loaded / quiet:.2f} times")
    print("aim: less than 2 times")


def _percentile(values: list[float]) -> float:
    return statistics.quantiles(values, n=20)[-1]


def main() -> None:
    """Start a server of its own and measure it; with arguments, push to one."""
    if sys.argv[1:]:
        asyncio.run(push_when_asked(*sys.argv[1:]))
        return
    with tempfile.TemporaryDirectory() as folder:
        environment = {**os.environ, "DREADNODE_DATA_DIR": folder}
        init = [sys.executable, "-m", "dreadnode_api", "init"]
        made = subprocess.run(init, env=environment, capture_output=True, check=True).stdout
        serve = [sys.executable, "-m", "dreadnode_api", "serve", "--port", "0"]
        with server(serve, environment) as served:
            asyncio.run(measure(served.address, json.loads(made)["token"]))


if __name__ == "__main__":
    main()
