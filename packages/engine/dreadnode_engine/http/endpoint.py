"""OpenAI's and Anthropic's protocols on the engine's own address, under `/v1`.

The protocols and the chat formats belong to the packages above the engine, which meet it as
processes. The first request starts `python -m dreadnode_api endpoint`, which samples from this
engine as every client does. The engine checks the key and forwards requests through a socket in a
folder of its own.
"""

import asyncio
import importlib.util
import logging
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

import httpx2
from starlette.requests import Request as HttpRequest
from starlette.responses import Response

from dreadnode_engine.errors import NotFound, Overloaded
from dreadnode_engine.http.bodies import read_body, target_of
from dreadnode_engine.http.calls import CLIENT_GONE, ClosingResponse, until_disconnected
from dreadnode_engine.service.keys import Keyring

log = logging.getLogger(__name__)

PREFIX = "/v1/"
NEEDED = ("dreadnode_api", "dreadnode_runtime")
SUBJECT_HEADER = "x-engine-subject"
FORWARDED = ("content-type", "anthropic-version", "x-request-id")
RETURNED = ("content-type", "cache-control", "retry-after", "x-request-id")
CONNECT_SECONDS = 10.0
CLOSE_SECONDS = 10.0


class Endpoint:
    """The process that serves `/v1`, started by the first request.

    Args:
        data_dir: The engine's folder.
        keyring: Checks the keys of requests.
    """

    def __init__(self, data_dir: Path, keyring: Keyring) -> None:
        self._data_dir = data_dir
        self._keyring = keyring
        self._starting = asyncio.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._client: httpx2.AsyncClient | None = None
        self._folder: tempfile.TemporaryDirectory[str] | None = None

    async def forward(self, request: HttpRequest) -> Response:
        """Return the process's response to REQUEST.

        Raises:
            Refused: The key or the body is refused, or there is no such process here.
        """
        subject = self._keyring.verify(_key(request.headers), time.time()).subject
        body = await read_body(request)
        client = await self._started(request)
        headers = {name: request.headers[name] for name in FORWARDED if name in request.headers}
        forwarded = client.build_request(
            request.method,
            httpx2.URL(scheme="http", host="engine", raw_path=target_of(request)),
            content=body,
            headers={**headers, SUBJECT_HEADER: subject},
        )
        try:
            response = await until_disconnected(client.send(forwarded, stream=True), request)
        except httpx2.HTTPError as error:
            log.warning("the process that serves `/v1` failed: %r", error)
            raise Overloaded(
                "The process that serves this protocol ended; see the engine's log, and try again"
            ) from None
        if response is None:
            return Response(status_code=CLIENT_GONE)
        return ClosingResponse(
            response.aiter_raw(),
            response.aclose,
            status_code=response.status_code,
            headers={name: response.headers[name] for name in RETURNED if name in response.headers},
        )

    async def close(self) -> None:
        """End the process."""
        if self._client is not None:
            await self._client.aclose()
        if self._process is not None:
            await asyncio.to_thread(_end, self._process)
        if self._folder is not None:
            self._folder.cleanup()

    async def _started(self, request: HttpRequest) -> httpx2.AsyncClient:
        async with self._starting:
            if self._client is None or self._process is None or self._process.poll() is not None:
                if self._client is not None:
                    await self._client.aclose()
                self._client = await self._start(request.scope["server"])
            return self._client

    async def _start(self, address: tuple[str, int]) -> httpx2.AsyncClient:
        if missing := [name for name in NEEDED if importlib.util.find_spec(name) is None]:
            raise NotFound(
                f"This engine serves Tinker's protocol only, because `{missing[0]}` is not "
                "installed beside it; docs/how-to/openai-clients.md says what `/v1` needs"
            )
        # Only this user can open a socket in it. The path of a socket must be short, so it is not
        # in the data directory.
        self._folder = self._folder or tempfile.TemporaryDirectory(prefix="dn-engine-")
        path = Path(self._folder.name) / "endpoint"
        path.unlink(missing_ok=True)
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
            listener.bind(str(path))
            # Requests wait in its backlog until the process accepts them.
            listener.listen(512)
            command = [sys.executable, "-P", "-m", NEEDED[0], "endpoint"]
            self._process = await asyncio.to_thread(
                subprocess.Popen,
                [*command, "--socket", str(listener.fileno())],
                env=self._environment(*address),
                # It ends with the engine, whose end of the pipe closes.
                stdin=subprocess.PIPE,
                pass_fds=[listener.fileno()],
            )
        return httpx2.AsyncClient(
            transport=httpx2.AsyncHTTPTransport(
                uds=str(path), limits=httpx2.Limits(max_connections=None)
            ),
            timeout=httpx2.Timeout(None, connect=CONNECT_SECONDS),
        )

    def _environment(self, host: str, port: int) -> dict[str, str]:
        shown = f"[{host}]" if ":" in host else host
        kept = {name: value for name, value in os.environ.items() if name != "TINKER_API_KEY"}
        return kept | {
            "DREADNODE_DATA_DIR": str(self._data_dir),
            "DREADNODE_ENGINE_KEY": self._keyring.master,
            "TINKER_BASE_URL": f"http://{shown}:{port}",
            "PYTHONSAFEPATH": "1",
        }


def _key(headers: Mapping[str, str]) -> str | None:
    """Return the key of a request; OpenAI's clients send it as a bearer token."""
    scheme, _, token = headers.get("authorization", "").partition(" ")
    return headers.get("x-api-key") or (token.strip() if scheme.lower() == "bearer" else None)


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(CLOSE_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
