"""`dn train download`: a job's adapter, its best one, or any of its checkpoints as one."""

from __future__ import annotations

import hashlib
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from dreadnode.cli import views
from dreadnode.cli.context import DEFAULT, Common
from dreadnode.cli.output import say, show
from dreadnode.errors import ConfigError, InputError, ProtocolError, UnusableFile

if TYPE_CHECKING:
    from dreadnode.http.sync_api.client import ApiClient
    from dreadnode.training.jobs import JobFile

ADAPTER, BEST = PurePosixPath("adapter"), PurePosixPath("best")


def download(
    job: Annotated[str, Parameter(help="The job's id.")],
    /,
    *,
    checkpoint: Annotated[
        str | None,
        Parameter(
            help="This checkpoint instead: a name of `dn train checkpoints`, such as "
            "`step-000010`, a path, or `best` for the best so far."
        ),
    ] = None,
    best: Annotated[
        bool, Parameter(help="The weights of the best evaluation, if those are not the last ones.")
    ] = False,
    to: Annotated[
        Path | None,
        Parameter(help="The folder; `adapter-JOB`, `best-JOB` or `NAME-JOB` here if not given."),
    ] = None,
    common: Common = DEFAULT,
) -> None:
    """Fetch a job's adapter, as PEFT loads it, into a folder.

    Without `--checkpoint` these are the weights that a completed job has ended with. With it, the
    engine exports what it has saved, while the job trains too; the server keeps that, and does not
    ask the engine for it again.

    A file that is already there whole is left as it is; one that differs is never overwritten.
    """
    if best and checkpoint is not None:
        raise InputError("give `--best` or `--checkpoint`, not both")
    with common.client() as client:
        if checkpoint is None:
            kept, files = _stored(client, job, best=best)
            folder = to or Path(f"{'best' if best else 'adapter'}-{job}")
        else:
            kept, files = _exported(client, job, checkpoint)
            folder = to or Path(f"{kept.name}-{job}")
        _fetch(client, job, files, kept, folder)
    if common.json:
        common.out.json({"folder": str(folder), "files": [file.model_dump() for file in files]})
    else:
        common.out.text(str(folder))


def _stored(client: ApiClient, job: str, *, best: bool) -> tuple[PurePosixPath, list[JobFile]]:
    """Return what the job itself has handed in, and the folder that it is in."""
    found = client.list_training_job_files(job).items
    kept = BEST if best and any(_is_in(BEST, file) for file in found) else ADAPTER
    files = [file for file in found if _is_in(kept, file)]
    if not files:
        raise ConfigError(
            f"job {job} has no adapter yet; `dn train wait {job}` waits until it has ended, and "
            "`--checkpoint NAME` fetches what it has saved so far"
        )
    if best:
        say(f"the best weights are {'another adapter' if kept == BEST else 'the last ones'}")
    return kept, files


def _exported(client: ApiClient, job: str, checkpoint: str) -> tuple[PurePosixPath, list[JobFile]]:
    """Have the server keep a checkpoint as an adapter; return its files and their folder."""
    say("the engine exports it, unless that was done before; this may take some minutes")
    made = client.export_training_job_checkpoint(job, checkpoint)
    kept = PurePosixPath(made.folder)
    say(views.whose(made))
    if not made.files or not all(_is_in(kept, file) for file in made.files):
        raise ProtocolError(f"the server names files outside of their folder: {show(made.folder)}")
    return kept, made.files


def _fetch(
    client: ApiClient, job: str, files: list[JobFile], kept: PurePosixPath, folder: Path
) -> None:
    """Save FILES, which lie in the folder KEPT on the server, in FOLDER."""
    from dreadnode.http.calls import training_job_file

    for file in files:
        target = folder / PurePosixPath(file.path).relative_to(kept)
        if _already_there(target, file):
            continue
        client.save(training_job_file(client.scope, job, file.path), target, sha256=file.sha256)
        say(f"{target}  {file.bytes:,} bytes")


def _is_in(folder: PurePosixPath, file: JobFile) -> bool:
    path = PurePosixPath(file.path)
    if path.is_absolute() or ".." in path.parts:
        raise ProtocolError(f"the server names a file outside of its folder: {show(file.path)}")
    return path.is_relative_to(folder) and path != folder


def _already_there(target: Path, file: JobFile) -> bool:
    try:
        with target.open("rb") as there:
            digest = hashlib.file_digest(there, "sha256").hexdigest()
    except FileNotFoundError:
        return False
    except OSError as error:
        raise UnusableFile(f"{target} cannot be read: {error.strerror}") from error
    if digest != file.sha256:
        raise UnusableFile(
            f"{target} is there already, with other content; name another folder with `--to`"
        )
    return True
