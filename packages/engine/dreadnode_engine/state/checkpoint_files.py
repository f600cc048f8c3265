"""Files of checkpoints, samplers and snapshots, and the `tinker://` paths that name them.

A checkpoint is a folder in PEFT's format. One made by `save_state` also has the optimizer state,
in a file that PEFT does not read.
"""

import os
import re
import shutil
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path

from dreadnode_engine.errors import Refused
from dreadnode_engine.state.records import FOLDERS, Kind

OPTIMIZER_FILE = "optimizer.safetensors"
MIN_TTL, MAX_TTL = 3600, 10 * 365 * 24 * 3600
"""The bounds that the SDK documents for a checkpoint's time to live, in seconds."""
_KINDS = {folder: kind for kind, folder in FOLDERS.items()}
_UNFINISHED = ".unfinished"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,199}")


@dataclass(frozen=True)
class CheckpointPath:
    """A parsed `tinker://{run}/{folder}/{name}`."""

    run: str
    kind: Kind
    name: str

    def __str__(self) -> str:
        return f"tinker://{self.run}/{self.id}"

    @property
    def id(self) -> str:
        """The checkpoint's id within its run, as the REST calls use it."""
        return f"{FOLDERS[self.kind]}/{self.name}"


def parse_path(text: str) -> CheckpointPath:
    """Parse a checkpoint path, or raise `Refused`."""
    parts = text.removeprefix("tinker://").split("/")
    if not text.startswith("tinker://") or len(parts) != 3 or parts[1] not in _KINDS:
        raise Refused(
            f"`{text[:200]}` is not a checkpoint path; it should look like "
            "`tinker://RUN/weights/NAME`"
        )
    return CheckpointPath(parts[0], _KINDS[parts[1]], check_name(parts[2]))


def check_name(name: str) -> str:
    """Return NAME if it can name a checkpoint, or raise `Refused`."""
    if not _NAME.fullmatch(name):
        raise Refused(
            f"`{name[:200]}` cannot name a checkpoint; use letters, digits, `.`, `_` and `-`"
        )
    return name


def check_ttl(seconds: object) -> None:
    """Refuse a time to live outside the documented bounds."""
    whole = isinstance(seconds, int) and not isinstance(seconds, bool)
    if not whole or not MIN_TTL <= seconds <= MAX_TTL:  # type: ignore[operator]
        raise Refused(f"`ttl_seconds` must be from {MIN_TTL} to {MAX_TTL}, or null to keep it")


class CheckpointFiles:
    """The folders under one data directory.

    Args:
        data_dir: this engine's own.
        shared_dir: of an engine with several workers, of which this one reads the checkpoints.
    """

    def __init__(self, data_dir: Path, shared_dir: Path | None = None) -> None:
        self._shared_dir = shared_dir
        self._checkpoints = data_dir / "checkpoints"
        self._samplers = data_dir / "samplers"
        self._snapshots = data_dir / "snapshots"
        self._uploads = data_dir / "uploads"

    def checkpoint(self, path: CheckpointPath) -> Path:
        """Return the folder of a checkpoint."""
        return self._of_run(_segment(path.run)) / FOLDERS[path.kind] / path.name

    def _of_run(self, run: str) -> Path:
        """Return the folder of the checkpoints of RUN, which may be another worker's."""
        own = self._checkpoints / run
        if self._shared_dir is None or own.is_dir():
            return own
        folders = (each / "checkpoints" / run for each in worker_dirs(self._shared_dir))
        return next((folder for folder in folders if folder.is_dir()), own)

    def sampler(self, sampler: str) -> Path:
        """Return the folder of the unnamed weights of a sampler."""
        return self._samplers / _segment(sampler)

    def snapshot(self, run: str, seq: int) -> Path:
        """Return the file of the snapshot of RUN taken after SEQ."""
        return self._snapshots / _segment(run) / f"{seq}.safetensors"

    def upload(self, upload: str) -> Path:
        """Return the folder of the files of an upload."""
        return self._uploads / _segment(upload)

    def delete_snapshots(self, run: str, keep: int | None) -> None:
        """Delete the snapshots of RUN except the one taken after KEEP."""
        folder = self._snapshots / _segment(run)
        for file in folder.glob("*") if folder.is_dir() else ():
            if keep is None or file.name != f"{keep}.safetensors":
                file.unlink(missing_ok=True)
        if keep is None:
            shutil.rmtree(folder, ignore_errors=True)

    def delete_unused(self, used: Collection[Path]) -> None:
        """Delete what a kill left: unnamed weights other than USED, and unfinished folders."""
        for folder in self._samplers.glob("*"):
            if folder not in used:
                shutil.rmtree(folder, ignore_errors=True)
        for folder in self._checkpoints.glob(f"*/*/.*{_UNFINISHED}"):
            shutil.rmtree(folder, ignore_errors=True)


def worker_dir(shared_dir: Path, index: int) -> Path:
    """Return the data directory of worker INDEX; that of the first is SHARED_DIR itself."""
    return shared_dir / "workers" / str(index) if index else shared_dir


def worker_dirs(shared_dir: Path) -> list[Path]:
    """Return the data directories of all workers that have served SHARED_DIR, in order."""
    found = (shared_dir / "workers").glob("*")
    indices = sorted(int(folder.name) for folder in found if folder.name.isdecimal())
    return [worker_dir(shared_dir, index) for index in (0, *indices)]


def check_workers(shared_dir: Path, workers: int) -> None:
    """Refuse fewer WORKERS than have runs in SHARED_DIR: some of the runs would not be served."""
    used = [dir_ for dir_ in worker_dirs(shared_dir)[1:] if (dir_ / "engine.sqlite3").exists()]
    if used and int(used[-1].name) >= workers:
        raise Refused(
            f"{shared_dir} has the runs of {int(used[-1].name) + 1} workers; start the engine with "
            f"`--workers {int(used[-1].name) + 1}` or more"
        )


def write_folder(folder: Path, fill: Callable[[Path], None]) -> int:
    """Write FOLDER atomically: FILL writes a new one, which replaces it; return its bytes."""
    unfinished = folder.with_name(f".{folder.name}{_UNFINISHED}")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    size = 0
    try:
        fill(unfinished)
        for file in unfinished.iterdir():
            size += file.stat().st_size
            with file.open("rb") as opened:
                os.fsync(opened.fileno())
    except BaseException:
        # On a full disk, the rest of one failed save would make all later ones fail.
        shutil.rmtree(unfinished, ignore_errors=True)
        raise
    # An existing folder is of a save that was never acknowledged.
    shutil.rmtree(folder, ignore_errors=True)
    unfinished.rename(folder)
    return size


def _segment(text: str) -> str:
    if not text or "/" in text or text.startswith("."):
        raise Refused(f"`{text[:200]}` is not an id of this engine")
    return text
