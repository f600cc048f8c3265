"""Exports a job for other programs, with the engine's package on this machine."""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from dreadnode.errors import ExportError, UnusableFile
from dreadnode.local_server.installation import ENGINE
from dreadnode.local_server.python import ISOLATED, module_command
from dreadnode.training.files import ExportResult

if TYPE_CHECKING:
    from dreadnode.http.sync_api.client import ApiClient

Format = Literal["peft", "merged", "gguf-lora", "vllm"]


def export_job(
    client: ApiClient,
    job_id: str,
    to: Path | str,
    *,
    format: Format = "merged",  # noqa: A002 - the name of the flag
    checkpoint: str | None = None,
    best: bool = False,
    base: Path | str | None = None,
    check: bool = True,
    data_dir: Path | None = None,
) -> ExportResult:
    """Export what a job trained into the folder TO, for another program.

    Args:
        client: A client of the server.
        job_id: The job.
        to: The folder; it must not exist.
        format: A PEFT adapter, a merged model, a LoRA GGUF for llama.cpp, or an adapter for vLLM.
        checkpoint: A checkpoint's name or path; else the final adapter.
        best: The adapter of the best evaluation instead.
        base: Folder of the base model; else the local Hugging Face cache is searched.
        check: Load the export in a new process and compare its logits with the engine's.
        data_dir: The data directory of a server on this machine, with the stand-in.

    Raises:
        UnusableFile: TO exists or cannot be written.
        ExportError: The job cannot be exported so; nothing is left.
    """
    require_engine()
    target = Path(to).expanduser().absolute()
    if target.exists():
        raise UnusableFile(f"{to} exists; name another folder with `--to`")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".adapter-", dir=target.parent) as folder:
            adapter = client.download_adapter(job_id, folder, checkpoint=checkpoint, best=best)
            return _convert(adapter, target, format, base, data_dir, check=check)
    except OSError as error:
        raise UnusableFile(f"{to} cannot be written: {error.strerror}") from error


def require_engine() -> None:
    """Return if the engine's package is installed here, which reads and writes weights."""
    (package, command), *_ = ENGINE.items()
    if find_spec(package) is None:
        raise ExportError(f"`{package}` is not installed here, and an export needs it: {command}")


def _convert(
    adapter: Path,
    to: Path,
    format: Format,  # noqa: A002 - the name of the flag
    base: Path | str | None,
    data_dir: Path | None,
    *,
    check: bool,
) -> ExportResult:
    command = [*module_command("dreadnode_engine"), "export", "--adapter", str(adapter)]
    command += ["--to", str(to), "--format", format, "--check" if check else "--no-check"]
    command += ["--data-dir", str(data_dir or adapter)]
    if base is not None:
        command += ["--base", str(Path(base).expanduser().absolute())]
    with subprocess.Popen(
        command,
        env={**os.environ, **ISOLATED},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            output, errors = process.communicate()
        except BaseException:
            # It deletes what it has written before it ends.
            process.terminate()
            process.wait()
            raise
    if process.returncode:
        last = (errors.strip().splitlines() or [f"it ended with {process.returncode}"])[-1]
        raise ExportError(last.removeprefix("error: "))
    return ExportResult.model_validate(json.loads(output))
