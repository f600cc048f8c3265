"""Clients that ask for too much: slow ones that hold connections, and a greedy organization.

Both are strikes of `chaos.py`. What they send is valid; there is only too much of it, or too slow.
"""

import asyncio
import contextlib
import json
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import httpx2

SLOW_CONNECTIONS = 100
"""Of each kind: half a head, half a body, and a response that nobody reads."""
GREEDY_REQUESTS = 24
"""How many requests the greedy organization always has under way."""
ROWS = b'{"prompt": "%s", "response": "yes"}\n' % (b"x" * 200) * 5000


def create_organization(data: Path, environment: Mapping[str, str]) -> str:
    """Create the organization `greedy` and return the token of its administrator."""
    command = [sys.executable, "-m", "dreadnode_api", "organization", "greedy"]
    made = subprocess.run(
        [*command, "--username", "greedy", "--email", "greedy@example.com"],
        env={**environment, "DREADNODE_DATA_DIR": str(data)},
        capture_output=True,
        check=True,
    )
    token: str = json.loads(made.stdout)["token"]
    return token


async def be_slow(port: int, token: str, seconds: float) -> None:
    """Hold connections for so long without completing a request, or without reading an answer."""
    head = f"PUT /api/v1/org/greedy/datasets/slow/1.0.0 HTTP/1.1\r\nHost: x\r\nX-API-Key: {token}"
    sent = {
        "half a head": head.encode(),
        "half a body": f"{head}\r\nContent-Length: 1000000\r\n\r\n{{".encode(),
        "unread": f"GET /openapi.json HTTP/1.1\r\nHost: x\r\nX-API-Key: {token}\r\n\r\n".encode()
        * 20,
    }
    writers: list[asyncio.StreamWriter] = []
    for data in sent.values():
        for _ in range(SLOW_CONNECTIONS):
            with contextlib.suppress(OSError):
                writers.append((await asyncio.open_connection("127.0.0.1", port, limit=1))[1])
                writers[-1].write(data)
    await asyncio.sleep(seconds)
    for writer in writers:
        writer.transport.abort()


async def be_greedy(address: str, token: str, seconds: float) -> Counter[int]:
    """Make as many requests as possible for so long; return how often each status came."""
    statuses: Counter[int] = Counter()
    until = time.monotonic() + seconds
    job = {
        "model": "Qwen/Qwen3-8B", "trainer_type": "sft",
        "config": {"dataset_ref": {"name": "nothing", "version": "1.0.0"}},
    }  # fmt: skip

    async def ask(client: httpx2.AsyncClient, number: int) -> None:
        turn = 0
        while time.monotonic() < until:
            turn += 1
            path = f"/datasets/rows-{number}/{turn}.{time.monotonic_ns()}.0"
            requests = (
                ("PUT", path, {"content": ROWS}),
                ("GET", "/datasets?page_size=100", {}),
                ("POST", "/ws/default/training/jobs", {"json": job}),
                ("GET", "/usage", {}),
                ("POST", "/tokens", {"json": {"name": f"token {turn}", "role": "reader"}}),
            )
            method, where, more = requests[(number + turn) % len(requests)]
            with contextlib.suppress(httpx2.HTTPError):
                answer = await client.request(method, where, **more)  # type: ignore[arg-type]
                statuses[answer.status_code] += 1

    limits = httpx2.Limits(max_connections=GREEDY_REQUESTS)
    async with httpx2.AsyncClient(
        base_url=f"{address}/api/v1/org/greedy",
        headers={"X-API-Key": token},
        timeout=30,
        limits=limits,
    ) as client:
        await asyncio.gather(*(ask(client, number) for number in range(GREEDY_REQUESTS)))
    return statuses
