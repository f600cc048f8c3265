"""The files of an adapter, on the server and downloaded, and the local folder of one."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from dreadnode.errors import ConfigError, ProtocolError, UnusableFile

if TYPE_CHECKING:
    from dreadnode.training.checkpoints import CheckpointAdapter
    from dreadnode.training.jobs import JobFile, TrainingJob

LOCAL_FILES = ("adapter_config.json", "adapter_model.safetensors")
"""The files of PEFT that make an adapter."""
_ADAPTER, _BEST = PurePosixPath("adapter"), PurePosixPath("best")


@dataclass(frozen=True)
class AdapterFiles:
    """The files of one adapter of a job.

    Attributes:
        folder: Their folder among the job's files.
        files: The files.
        weights: The exported checkpoint, if it is one.
    """

    folder: PurePosixPath
    files: list[JobFile]
    weights: CheckpointAdapter | None = None

    @property
    def name(self) -> str:
        """`adapter`, `best`, or the name of the checkpoint."""
        return self.folder.name

    def target(self, file: JobFile, folder: Path) -> Path:
        """Return the path of FILE in the local FOLDER."""
        return folder / PurePosixPath(file.path).relative_to(self.folder)


def final_adapter(files: list[JobFile], *, best: bool) -> AdapterFiles | None:
    """Return the final adapter among FILES, or the best one if it is another; None without one."""
    for folder in (_BEST, _ADAPTER) if best else (_ADAPTER,):
        if found := _below(folder, files):
            return AdapterFiles(folder, found)
    return None


def exported_adapter(made: CheckpointAdapter) -> AdapterFiles:
    """Return the files of an exported checkpoint."""
    folder = PurePosixPath(made.folder)
    found = _below(folder, made.files)
    if not found or len(found) != len(made.files):
        raise ProtocolError(f"the server names files outside of their folder: {made.folder!r}")
    return AdapterFiles(folder, found, made)


def missing_adapter(job: TrainingJob) -> ConfigError:
    """Return the error for a job without an adapter."""
    if job.has_ended:
        return ConfigError(
            f"job {job.id} {job.status} without an adapter; `dn train checkpoints {job.id}` lists "
            "what it saved"
        )
    return ConfigError(
        f"job {job.id} has no adapter yet; `dn train wait {job.id}` waits for its end, and "
        "`--checkpoint NAME` downloads a checkpoint before that"
    )


def is_complete(target: Path, file: JobFile) -> bool:
    """Return whether TARGET already is FILE.

    Raises:
        UnusableFile: TARGET has other content, or cannot be read.
    """
    try:
        with target.open("rb") as existing:
            digest = hashlib.file_digest(existing, "sha256").hexdigest()
    except FileNotFoundError:
        return False
    except OSError as error:
        raise UnusableFile(f"{target} cannot be read: {error.strerror}") from error
    if digest != file.sha256:
        raise UnusableFile(
            f"{target} already exists with other content; name another folder with `--to`"
        )
    return True


def local_adapter(start: str | Path) -> Path | None:
    """Return the local folder of an adapter that START names; None if it names no folder.

    Raises:
        UnusableFile: There is no such folder, or it holds no LoRA adapter of PEFT.
    """
    text = str(start)
    if text.startswith("tinker://"):
        return None
    folder = Path(start).expanduser()
    if not folder.is_dir():
        if isinstance(start, Path) or text.startswith(("/", "./", "../", "~")):
            raise UnusableFile(f"there is no folder {folder}")
        return None
    for name in LOCAL_FILES:
        if not (folder / name).is_file():
            raise UnusableFile(
                f"{folder} has no {name}; name the folder into which PEFT's `save_pretrained` wrote"
            )
    try:
        config = json.loads((folder / LOCAL_FILES[0]).read_bytes())
    except OSError as error:
        raise UnusableFile(f"{folder / LOCAL_FILES[0]} cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError):
        raise UnusableFile(f"{folder / LOCAL_FILES[0]} is not JSON") from None
    if not isinstance(config, dict) or config.get("peft_type") != "LORA":
        raise UnusableFile(f"{folder} holds no LoRA adapter: `peft_type` is not `LORA`")
    return folder


def _below(folder: PurePosixPath, files: list[JobFile]) -> list[JobFile]:
    """Return those of FILES that are in FOLDER; none of them may leave it."""
    found = []
    for file in files:
        path = PurePosixPath(file.path)
        if path.is_absolute() or ".." in path.parts:
            raise ProtocolError(f"the server names a file outside of its folder: {file.path!r}")
        if path.is_relative_to(folder) and path != folder:
            found.append(file)
    return found
