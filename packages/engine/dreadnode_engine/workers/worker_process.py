"""A worker: an engine of its own data directory, which serves a router."""

import asyncio
import fcntl
import sys
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from dreadnode_engine.errors import OperationFailed, Refused
from dreadnode_engine.serving import serve
from dreadnode_engine.settings import Settings
from dreadnode_engine.startup import say
from dreadnode_engine.workers.shared_folder import LOCK_FILE

REFUSED = "refused: "
"""The first word of the line on stdout that says why a worker does not start."""


class WorkerSpec(BaseModel):
    """What a worker is started with: its settings, and the data directory that workers share."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    settings: Settings
    shared_dir: Path


def run_worker(specification: str) -> int:
    """Serve as SPECIFICATION, a `WorkerSpec` in JSON, describes; return the exit code."""
    spec = WorkerSpec.model_validate_json(specification)
    try:
        # An empty mount point would get an empty journal, and lose it when its folder is back.
        if not (spec.shared_dir / LOCK_FILE).is_file():
            raise Refused(  # noqa: TRY301 (reported like every other refusal)
                f"The data directory {spec.shared_dir} of this engine has disappeared; mount it "
                "again, or move it back"
            )
        return asyncio.run(serve(_with_shared_dtype(spec), spec.shared_dir))
    except (Refused, OperationFailed, OSError) as problem:
        say(sys.stdout, f"{REFUSED}{problem}")
        return 1


def _with_shared_dtype(spec: WorkerSpec) -> Settings:
    """Return the settings with the data type that all workers compute in."""
    settings = spec.settings
    if settings.dtype != "auto" or settings.device != "cpu":
        return settings
    from dreadnode_engine.compute.mixed_precision import choose_dtype

    # One after the other: the first measures, and the others read what it has chosen.
    with (spec.shared_dir / "dtype.lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        return settings.model_copy(update={"dtype": choose_dtype(spec.shared_dir)})
