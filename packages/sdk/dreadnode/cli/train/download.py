"""`dn train download`: a job's adapter, its best adapter, or any checkpoint as an adapter."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from dreadnode.cli import views
from dreadnode.cli.context import DEFAULT, Common
from dreadnode.cli.output import hint, say
from dreadnode.cli.train.jobs import FINAL, Job, Weights

if TYPE_CHECKING:
    from dreadnode.http.adapter_files import AdapterFiles
    from dreadnode.http.sync_api.client import ApiClient


def download(
    job: Job,
    /,
    *,
    weights: Weights = FINAL,
    to: Annotated[
        Path | None,
        Parameter(help="Folder; else `adapter-JOB`, `best-JOB` or `NAME-JOB` in this folder."),
    ] = None,
    common: Common = DEFAULT,
) -> None:
    """Download a job's adapter, in the format of PEFT, into a folder.

    Without `--checkpoint` it is the final adapter of a completed job. With it, the engine exports
    the checkpoint, also during training; the server keeps the export for later downloads.

    An existing complete file is kept; a different file is never overwritten.
    """
    weights.refuse_two_choices()
    with common.client() as client:
        job = client.find_training_job(job)
        if weights.checkpoint is None:
            found = client.find_adapter(job, best=weights.best)
        else:
            say("the engine exports the checkpoint, if it has not yet; this can take minutes")
            found = client.export_adapter(job, weights.checkpoint)
        folder = to or Path(f"{found.name}-{job}")
        client.download_files(job, found, folder, on_file=_report)
        _describe(client, job, found, best=weights.best)
    if common.json:
        files = [file.model_dump() for file in found.files]
        common.out.json({"folder": str(folder), "files": files})
    else:
        common.out.text(str(folder))


def _report(path: Path, size: int) -> None:
    say(f"{path}  {size:,} bytes")


def _describe(client: ApiClient, job_id: str, found: AdapterFiles, *, best: bool) -> None:
    """Say which weights these are, and whether an earlier evaluation was better."""
    if found.weights is not None:
        say(views.weights(found.weights))
        return
    if best:
        say(
            "the best weights are "
            f"{'a separate adapter' if found.name == 'best' else 'the final ones'}"
        )
        return
    job = client.get_training_job(job_id)
    if job.better_evaluation:
        hint(views.take_best(job))
