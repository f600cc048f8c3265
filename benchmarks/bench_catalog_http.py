"""`GET /training/catalog` on the app that `dn serve` runs, against a bare app sending its bytes.

Both run under uvicorn with the same settings and put the same bytes on the wire, and are asked in
turns within one run by as many connections. Nothing of the app is turned off: keys are checked,
requests counted, traced and logged.
Aim: at most 10 times the CPU time of the bare app, which does nothing but send, and a revoked key
fails within a second.
"""

from __future__ import annotations

import asyncio
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import psutil

PATH = "/api/v1/training/catalog"
CONNECTIONS = 16
SECONDS = 1.0
ROUNDS = 15


def bare(answer_file: str) -> None:
    """Serve the answer in ANSWER_FILE, head and body, and nothing else."""
    import uvicorn

    answer = json.loads(Path(answer_file).read_bytes())
    headers = [(name.encode(), value.encode()) for name, value in answer["headers"]]
    start = {"type": "http.response.start", "status": 200, "headers": headers}
    end = {"type": "http.response.body", "body": answer["body"].encode()}

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            await send(start)
            await send(end)

    class Server(uvicorn.Server):
        async def startup(self, sockets: Any = None) -> None:
            await super().startup(sockets)
            port = self.servers[0].sockets[0].getsockname()[1]
            print(f"bare ready on http://127.0.0.1:{port}", flush=True)

    config = uvicorn.Config(
        app, port=0, log_config=None, access_log=False, server_header=False, lifespan="off"
    )
    Server(config).run()


class Served(NamedTuple):
    """A server that runs."""

    address: str
    process: psutil.Process

    def cpu_seconds(self) -> float:
        """Return the CPU time that it has used."""
        times = self.process.cpu_times()
        return float(times.user + times.system)


class Load(NamedTuple):
    """What a server did in one round."""

    per_second: float
    cpu_microseconds: float


@contextmanager
def server(command: list[str], environment: dict[str, str]) -> Iterator[Served]:
    """Run a server, yield it once it answers, and end it."""
    process = subprocess.Popen(
        command,
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    try:
        assert process.stdout is not None
        for line in process.stdout:
            if " ready on " in line:
                yield Served(line.split(" ready on ")[1].strip(), psutil.Process(process.pid))
                break
        else:
            raise SystemExit(f"{command} did not start")
    finally:
        process.terminate()
        process.wait(10)


def ask(address: str, path: str, key: str, method: str = "GET", body: Any = None) -> Any:
    """Return the status, the body and the headers of one answer."""
    request = urllib.request.Request(
        f"{address}{path}",
        method=method,
        data=None if body is None else json.dumps(body).encode(),
        headers={"Authorization": f"Bearer {key}", "Content-Type": "application/json"},
    )
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            return answer.status, answer.read(), answer.headers
    except urllib.error.HTTPError as error:
        return error.code, error.read(), error.headers


async def load(served: Served, key: str) -> Load:
    """Let CONNECTIONS clients ask, each one request at a time."""
    host, port = served.address.removeprefix("http://").split(":")
    wire = (f"GET {PATH} HTTP/1.1\r\nHost: {host}\r\nAuthorization: Bearer {key}\r\n\r\n").encode()
    until = time.perf_counter() + SECONDS

    async def client() -> int:
        reader, writer = await asyncio.open_connection(host, int(port))
        count = 0
        while time.perf_counter() < until:
            writer.write(wire)
            head = await reader.readuntil(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 200"), head
            length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
            await reader.readexactly(length)
            count += 1
        writer.close()
        return count

    began, used = time.perf_counter(), served.cpu_seconds()
    count = sum(await asyncio.gather(*(client() for _ in range(CONNECTIONS))))
    cpu = (served.cpu_seconds() - used) / count * 1e6
    return Load(count / (time.perf_counter() - began), cpu)


def revocation(address: str, key: str) -> str:
    """Return how long a revoked key went on being served."""
    status, made, _ = ask(address, "/api/v1/org/main/tokens", key, "POST", {"name": "short-lived"})
    assert status == 201, made
    token = json.loads(made)
    assert ask(address, PATH, token["token"])[0] == 200
    status, said, _ = ask(address, f"/api/v1/org/main/tokens/{token['id']}", key, "DELETE")
    assert status < 300, said
    revoked = time.perf_counter()
    while ask(address, PATH, token["token"])[0] == 200:
        time.sleep(0.01)
    return f"a revoked key was refused after {time.perf_counter() - revoked:.2f} s (aim: 1)"


def main() -> None:
    """Start both servers, ask them in turns, and print the ratio of their medians."""
    with tempfile.TemporaryDirectory() as folder:
        environment = {**os.environ, "DREADNODE_DATA_DIR": folder}
        init = [sys.executable, "-m", "dreadnode_api", "init"]
        made = subprocess.run(init, env=environment, capture_output=True, check=True).stdout
        key = json.loads(made)["token"]
        serve = [sys.executable, "-m", "dreadnode_api", "serve", "--port", "0"]
        with server(serve, environment) as ours:
            status, body, headers = ask(ours.address, PATH, key)
            assert status == 200
            # uvicorn itself adds these two.
            own = [
                each for each in headers.items() if each[0].lower() not in ("date", "connection")
            ]
            saved = Path(folder) / "answer.json"
            saved.write_text(json.dumps({"headers": own, "body": body.decode()}))
            command = [sys.executable, __file__, str(saved)]
            with server(command, environment) as theirs:
                rounds = [
                    (asyncio.run(load(ours, key)), asyncio.run(load(theirs, key)))
                    for _ in range(ROUNDS)
                ]
            revoked = revocation(ours.address, key)
    print(f"{len(body):,} bytes, medians of {ROUNDS} rounds:")
    for name, column in zip(("app", "bare"), zip(*rounds, strict=True), strict=True):
        per_second, cpu = (statistics.median(each) for each in zip(*column, strict=True))
        print(f"{name:8}{per_second:8,.0f} requests per second{cpu:8,.0f} µs of CPU per request")
    ratio = statistics.median(app.cpu_microseconds / bare.cpu_microseconds for app, bare in rounds)
    print(f"the app takes {ratio:.1f} times the CPU of the bare app (aim: at most 10)")
    print(revoked)


if __name__ == "__main__":
    if sys.argv[1:]:
        bare(sys.argv[1])
    else:
        main()
