"""The id, the metrics and the log line of every request, and a 500 for every crash."""

import random
import re
import time

from prometheus_client import CollectorRegistry, Counter, Histogram
from starlette.datastructures import Headers
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from dreadnode_api import logs
from dreadnode_api.http.error_responses import crash_response

_JOB = re.compile(r"/training/jobs/([A-Za-z0-9-]{1,64})(?:/|$)")
_REQUEST_ID = re.compile(r"^[A-Za-z0-9._-]{1,64}$")
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})


class Telemetry:
    """The metrics of one application, in a registry of its own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "http_requests",
            "Requests with a response",
            ["method", "status"],
            registry=self.registry,
        )
        self.seconds = Histogram(
            "http_request_seconds", "Time to the end of the response", registry=self.registry
        )
        # Looking up a labelled counter costs more than counting.
        self._counters: dict[tuple[str, int], Counter] = {}

    def count(self, method: str, status: int, seconds: float) -> None:
        """Count one response; all unknown methods share one counter."""
        method = method if method in _METHODS else "OTHER"
        counter = self._counters.get((method, status))
        if counter is None:
            counter = self.requests.labels(method, str(status))
            self._counters[method, status] = counter
        counter.inc()
        self.seconds.observe(seconds)


class Trace:
    """Gives a request its id, turns a crash into a 500 with a reference, and logs one line."""

    def __init__(self, app: ASGIApp, telemetry: Telemetry) -> None:
        self.app = app
        self.telemetry = telemetry

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        given = Headers(scope=scope).get("x-request-id", "")
        # It is only a name, so it need not be secret.
        generated = f"{random.getrandbits(64):016x}"
        request_id = given if _REQUEST_ID.match(given) else generated
        id_header = (b"x-request-id", request_id.encode())
        job = _JOB.search(scope["path"])
        about = logs.REQUEST.set(request_id), logs.JOB.set(job[1] if job else None)
        started, status = time.perf_counter(), 0

        async def traced(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message.get("headers", ()), id_header]
            await send(message)

        try:
            await self.app(scope, receive, traced)
        except ClientDisconnect:
            status = status or 499
        except Exception as error:
            where = f"{scope['method']} {logs.printable(scope['path'])}"
            response = crash_response(error, where, scope)
            if status:
                raise  # The response has started; it can only be cut off.
            await response(scope, receive, traced)
        finally:
            seconds = time.perf_counter() - started
            self.telemetry.count(scope["method"], status, seconds)
            logs.request(scope["method"], scope["path"], status, seconds)
            logs.REQUEST.reset(about[0])
            logs.JOB.reset(about[1])
