"""`dn train sft`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from dreadnode.cli import views
from dreadnode.cli.completion import model_ids
from dreadnode.cli.context import DEFAULT, Common
from dreadnode.cli.data.dataset import upload
from dreadnode.cli.output import hint, say
from dreadnode.cli.train.sft_settings import NONE, Settings

if TYPE_CHECKING:
    from dreadnode.http.client import ApiClient
    from dreadnode.training.jobs import TrainingJob
    from dreadnode.wire import CapabilityRef, DatasetRef


def sft(
    *,
    model: Annotated[
        str, Parameter(help="A base model: see `dn train catalog`.", completer=model_ids)
    ],
    dataset: Annotated[
        str,
        Parameter(help="NAME@VERSION, or a file or a folder of splits, which is stored first."),
    ],
    split: Annotated[
        str | None,
        Parameter(help="Of the dataset; the only one, or `train`, if not given."),
    ] = None,
    rehearse: Annotated[
        bool,
        Parameter(
            help="Run it all on a small stand-in: same data, config and loop, for nothing.",
        ),
    ] = False,
    wait: Annotated[bool, Parameter(help="Wait until it has ended, showing its progress.")] = False,
    name: Annotated[str | None, Parameter(help="A name for people.")] = None,
    tag: Annotated[tuple[str, ...], Parameter(help="A tag; may be given again.")] = (),
    eval_dataset: Annotated[
        str | None, Parameter(help="Data to measure the loss on, as `--dataset`.")
    ] = None,
    eval_split: Annotated[
        str | None,
        Parameter(help="Of the data to measure on; without `--eval-dataset`, of `--dataset`."),
    ] = None,
    capability: Annotated[
        str | None, Parameter(help="NAME@VERSION whose system prompt goes before every row.")
    ] = None,
    settings: Settings = NONE,
    common: Common = DEFAULT,
) -> None:
    """Submit a supervised fine-tuning job.

    Everything that can be refused is refused before anything runs: an unknown model, data that
    cannot be rendered, a setting out of range. What is left out is the server's default, which the
    job then tells.
    """
    from dreadnode.training.jobs import SftConfig, SftRequest

    given = settings.given()
    with common.client() as client:
        config = SftConfig(
            dataset_ref=dataset_ref(client, dataset),
            split=split,
            eval_dataset_ref=dataset_ref(client, eval_dataset) if eval_dataset else None,
            eval_split=eval_split,
            **given,
        )
        job = client.create_training_job(
            SftRequest(
                model=model,
                config=config,
                capability_ref=capability_ref(capability),
                name=name,
                tags=tag,
                rehearse=rehearse,
            )
        )
        submitted(client, job, common, wait=wait)


def submitted(client: ApiClient, job: TrainingJob, common: Common, *, wait: bool) -> None:
    """Show a job that has just been accepted, or wait until it has ended."""
    if wait:
        from dreadnode.cli.train.progress import follow

        say(f"submitted job {job.id}: {views.data(job.preflight) or 'queued'}")
        follow(client, job.id, common)
        return
    common.out.record(job, views.JOB)
    hint(f"`dn train wait {job.id}` follows it")


def capability_ref(ref: str | None) -> CapabilityRef | None:
    """Return what names the capability REF, NAME@VERSION, to the server."""
    if ref is None:
        return None
    from dreadnode.capabilities import parse_ref
    from dreadnode.wire import CapabilityRef

    name, version = parse_ref(ref)
    return CapabilityRef(name=name, version=version)


def dataset_ref(client: ApiClient, dataset: str) -> DatasetRef:
    """Return what names DATASET to the server; a file is stored there first."""
    from dreadnode.datasets.jsonl import is_path, parse_ref
    from dreadnode.wire import DatasetRef

    if is_path(dataset):
        return upload(client, Path(dataset)).ref
    name, version = parse_ref(dataset)
    return DatasetRef(name=name, version=version)
