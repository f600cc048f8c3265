"""The supervisor: keeps every worker running, and says why one does not."""

import asyncio
import logging
import time

import httpx2

from dreadnode_engine.errors import Refused
from dreadnode_engine.workers.launching import EndedEarly, Launched, Launcher

log = logging.getLogger(__name__)

STEADY_SECONDS = 60.0
"""A worker that served so long does not count as one that dies at every start."""
FAILURES = 3
"""After so many starts in a row that failed, the engine starts without the worker."""
MAX_DELAY = 30.0
"""The longest time between two starts of a worker that dies at every start."""
CONNECT_SECONDS = 5.0


class Worker:
    """One worker as its router sees it.

    Attributes:
        index: its number.
        ready: set while it serves.
        settled: set once it has served, or has failed to start several times.
        problem: why it does not serve, if it dies at every start.
        refusal: why it does not accept its settings.
        models: base models that are in its memory.
        samples: sampling requests that wait for it.
        computing: runs that it computes.
        runs: of clients that are there.
        sent: sampling requests that were sent to it since it said how many wait.
    """

    def __init__(self, index: int) -> None:
        self.index = index
        self.url = ""
        self.ready, self.settled = asyncio.Event(), asyncio.Event()
        self.problem: str | None = None
        self.refusal: Refused | None = None
        self.models: set[str] = set()
        self.samples = 0
        self.computing = 0
        self.runs: set[str] = set()
        self.sent = 0
        self._placed: dict[str, float] = {}
        self._http: httpx2.AsyncClient | None = None
        self._launched: Launched | None = None
        self._stopping = False

    @property
    def http(self) -> httpx2.AsyncClient:
        """The connections to the worker while it is ready."""
        if self._http is None:
            raise ConnectionError(f"worker {self.index} does not serve")
        return self._http

    def add_placed(self, name: str) -> None:
        """Count the run or sampler NAME, which the worker is about to get."""
        self.runs.add(name)
        self._placed[name] = time.monotonic()

    def see_runs(self, names: list[str]) -> None:
        """Record that the worker has the runs NAMES, and those that it was about to get."""
        since = time.monotonic() - CONNECT_SECONDS
        self._placed = {name: at for name, at in self._placed.items() if at > since}
        self.runs = {*names, *self._placed}

    async def keep_running(self, launcher: Launcher) -> None:
        """Start the worker again whenever it ends."""
        failures = 0
        while True:
            if (how := await self._run_once(launcher)) is None:
                failures = 0
                continue
            failures += 1
            if failures >= FAILURES:
                self.problem = (
                    f"Worker {self.index} has failed {failures} times in a row at or soon after "
                    f"its start ({how}); its runs wait until it serves again, and the log says why"
                )
                log.error("%s", self.problem)
                self.settled.set()
            await asyncio.sleep(min(MAX_DELAY, 0.25 * 2**failures))

    async def _run_once(self, launcher: Launcher) -> str | None:
        """Run it until it ends; return how, or None if it served for a while."""
        started = time.monotonic()
        try:
            self._launched = await launcher.launch(self.index)
        except Refused as refusal:
            self.refusal = refusal
            self.settled.set()
            return str(refusal)
        except (EndedEarly, OSError) as problem:
            log.warning("worker %d ended before it served: %s", self.index, problem)
            return str(problem)
        self._connect(self._launched.url)
        how = await self._launched.ended()
        await self.disconnect()
        log.warning("worker %d ended (%s); it is started again", self.index, how)
        return None if time.monotonic() - started > STEADY_SECONDS else how

    def _connect(self, url: str) -> None:
        self.url, self.problem, self.refusal, self.sent = url, None, None, 0
        # A request waits as long as its client does.
        self._http = httpx2.AsyncClient(
            limits=httpx2.Limits(max_connections=None, max_keepalive_connections=256),
            timeout=httpx2.Timeout(None, connect=CONNECT_SECONDS),
            trust_env=False,
        )
        self.ready.set()
        self.settled.set()
        log.info("worker %d serves on %s", self.index, url)

    async def disconnect(self) -> None:
        """End the connections; requests that wait on them are sent again."""
        self.ready.clear()
        http, self._http = self._http, None
        if http is not None:
            await http.aclose()

    async def stop(self) -> None:
        """End the worker."""
        await self.disconnect()
        if self._launched is not None:
            await self._launched.stop()
