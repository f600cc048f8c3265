"""What the parts of a running engine share."""

from collections.abc import Mapping
from pathlib import Path

from dreadnode_engine.base_models.discovery import ServedModel
from dreadnode_engine.base_models.fingerprint import parse
from dreadnode_engine.errors import Refused
from dreadnode_engine.scheduling.futures import Futures
from dreadnode_engine.scheduling.residency import Residency
from dreadnode_engine.scheduling.scheduler import Scheduler
from dreadnode_engine.settings import Settings
from dreadnode_engine.state.checkpoint_files import CheckpointFiles
from dreadnode_engine.state.crash_guard import CrashGuard
from dreadnode_engine.state.journal import Journal
from dreadnode_engine.state.records import Checkpoint, Run, Sampler


class Context:
    """The journal, the files, the computing thread, the models in memory, the waiting clients.

    Attributes:
        futures: who waits for the result of a request.
        progress: who waits for the next tokens of a request.
    """

    def __init__(
        self,
        settings: Settings,
        models: Mapping[str, ServedModel],
        residency: Residency,
        shared_dir: Path | None = None,
    ) -> None:
        self.settings = settings
        self.models = models
        self.residency = residency
        self.files = CheckpointFiles(settings.data_dir, shared_dir)
        self.journal = Journal(settings.data_dir / "engine.sqlite3")
        self.crash_guard = CrashGuard(settings.data_dir / "computing")
        self.scheduler = Scheduler(when_idle=residency.when_idle)
        self.futures = Futures()
        self.progress = Futures()
        self.samplers: dict[str, Sampler] = {}

    def check_base(self, made: Run | Sampler | Checkpoint) -> None:
        """Refuse MADE if the weights under its base model's name have changed since."""
        served = self.models.get(made.base_model)
        if served is None or made.base_fingerprint is None:
            return
        if made.base_fingerprint == served.fingerprint:
            return
        earlier, now = parse(made.base_fingerprint), parse(served.fingerprint)
        name = made.path if isinstance(made, Checkpoint) else made.id
        if earlier[0] == now[0]:
            # Adapters are float32 everywhere; only a run must continue with the same bits.
            if not isinstance(made, Run):
                return
            raise Refused(
                f"The run {name} computes with base weights in {earlier[1]}, and this engine keeps "
                f"them in {now[1]}; start the engine with `--dtype {earlier[1]}` to continue it, "
                "or create a run from one of its checkpoints"
            )
        raise Refused(
            f"{name} was made on weights of {made.base_model} with the fingerprint "
            f"{made.base_fingerprint}, and this engine serves weights with the fingerprint "
            f"{served.fingerprint} under that name; start it with the earlier weights to continue"
        )
