"""What the parts of a running engine share."""

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from dreadnode_engine.compute.base_models import Device
from dreadnode_engine.compute.served_models import ServedModel
from dreadnode_engine.errors import Refused
from dreadnode_engine.scheduling.residency import Residency
from dreadnode_engine.scheduling.scheduler import Worker
from dreadnode_engine.state.checkpoints import Store
from dreadnode_engine.state.crash_guard import Underway
from dreadnode_engine.state.journal import Journal
from dreadnode_engine.state.records import Checkpoint, Run, Sampler

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Settings:
    """How the engine runs.

    Attributes:
        memory: bytes that models, runs and computing may fill; None for what is free at start.
        micro_batch_tokens: padded tokens computed at once in training.
        sampling_rows: samples decoded together on one base model.
        sampling_positions: tokens, over all these samples, that the key-value cache may hold.
        snapshot_seconds: computing after which a run is snapshotted: what a kill can cost.
        hold_seconds: how long a poll waits for its answer; the SDK gives up after 45.
        gap_seconds: how long an operation waits for one numbered before it that never came.
        ask_seconds: how long a sample is drawn that nobody asks for.
        session_seconds: silence after which a client is taken for dead and its memory freed.
        retention_seconds: how long answers and dead sessions are kept on disk.
        tidy_seconds: how often it looks what is due.
    """

    data_dir: Path
    device: Device = field(default_factory=Device)
    memory: int | None = None
    micro_batch_tokens: int = 2048
    sampling_rows: int = 64
    sampling_positions: int = 64 * 1024
    snapshot_seconds: float = 20.0
    hold_seconds: float = 25.0
    gap_seconds: float = 900.0
    ask_seconds: float = 120.0
    session_seconds: float = 900.0
    retention_seconds: float = 24 * 3600.0
    tidy_seconds: float = 30.0


class Context:
    """The journal, the store, the computing thread, the base models, and who waits for what."""

    def __init__(self, settings: Settings, models: dict[str, ServedModel]) -> None:
        self.settings = settings
        self.models = models
        self.store = Store(settings.data_dir)
        self.journal = Journal(settings.data_dir / "engine.sqlite3")
        self.underway = Underway(settings.data_dir / "underway")
        self.worker = Worker()
        self.residency: Residency
        self.samplers: dict[str, Sampler] = {}
        self.loop = asyncio.get_running_loop()
        self._waiters: dict[str, set[asyncio.Event]] = {}

    def check_base(self, made: Run | Sampler | Checkpoint) -> None:
        """Refuse what was MADE on other weights than those that bear their model's name now."""
        served = self.models.get(made.base_model)
        if served is None or made.base_fingerprint in (None, served.fingerprint):
            return
        name = made.path if isinstance(made, Checkpoint) else made.id
        raise Refused(
            f"{name} was made on weights of {made.base_model} with the fingerprint "
            f"{made.base_fingerprint}, and this engine was started with others under that name, "
            f"with the fingerprint {served.fingerprint}; start it with the earlier ones to go on"
        )

    def announce(self, request_id: str, publish: Callable[[], None] | None = None) -> None:
        """Tell who waits for REQUEST_ID that it is done, after PUBLISH has run; from any thread."""
        self.loop.call_soon_threadsafe(self._announce, request_id, publish)

    def _announce(self, request_id: str, publish: Callable[[], None] | None) -> None:
        if publish is not None:
            publish()
        for event in self._waiters.get(request_id, ()):
            event.set()

    def waited_for(self, request_id: str) -> bool:
        """Whether somebody waits for REQUEST_ID at this moment."""
        return request_id in self._waiters

    def waiter(self, request_id: str) -> "Waiter":
        """Return a context in which the end of REQUEST_ID can be waited for."""
        return Waiter(self._waiters, request_id)


class Waiter:
    """An event for one request, known from before the caller looks until it is left."""

    def __init__(self, waiters: dict[str, set[asyncio.Event]], request_id: str) -> None:
        self._waiters, self._id = waiters, request_id
        self._event = asyncio.Event()

    def __enter__(self) -> "Waiter":
        self._waiters.setdefault(self._id, set()).add(self._event)
        return self

    def __exit__(self, *_: object) -> None:
        events = self._waiters[self._id]
        events.discard(self._event)
        if not events:
            del self._waiters[self._id]

    async def wait(self, seconds: float) -> bool:
        """Wait at most SECONDS, and return whether the request is done."""
        try:
            await asyncio.wait_for(self._event.wait(), seconds)
        except TimeoutError:
            return False
        return True
