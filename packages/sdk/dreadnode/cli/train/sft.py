"""`dn train sft`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from dreadnode.cli import views
from dreadnode.cli.completion import model_ids
from dreadnode.cli.context import DEFAULT, Common
from dreadnode.cli.data.dataset import upload
from dreadnode.cli.output import hint, say
from dreadnode.cli.train.flags import flags_named, given
from dreadnode.cli.train.sft_flags import FLAG_NAMES, NO_FLAGS, SftFlags
from dreadnode.errors import InputError

if TYPE_CHECKING:
    from dreadnode.http.sync_api.client import ApiClient
    from dreadnode.training.jobs import TrainingJob
    from dreadnode.wire import DatasetRef


def sft(
    *,
    model: Annotated[
        str, Parameter(help="Base model: see `dn train catalog`.", completer=model_ids)
    ],
    dataset: Annotated[
        str | None,
        Parameter(
            help="Training dataset: NAME@VERSION, or a file or a folder of splits, which is "
            "uploaded first."
        ),
    ] = None,
    trajectory_dataset: Annotated[
        tuple[str, ...],
        Parameter(help="Trajectories to train on as well, as `--dataset`. May be repeated."),
    ] = (),
    rehearse: Annotated[
        bool,
        Parameter(help="Train a small stand-in model instead: same data, config and loop."),
    ] = False,
    wait: Annotated[bool, Parameter(help="Wait for the end of the job and show progress.")] = False,
    name: Annotated[str | None, Parameter(help="Name of the job.")] = None,
    tag: Annotated[tuple[str, ...], Parameter(help="Tag of the job. May be repeated.")] = (),
    eval_dataset: Annotated[
        str | None, Parameter(help="Evaluation dataset, as `--dataset`.")
    ] = None,
    capability: Annotated[
        str | None, Parameter(help="NAME@VERSION of the capability with the system prompt.")
    ] = None,
    flags: SftFlags = NO_FLAGS,
    common: Common = DEFAULT,
) -> None:
    """Submit a supervised fine-tuning job.

    Everything that can be refused is refused before anything runs: an unknown model, data that
    cannot be rendered, a setting out of range. The job's config echoes every default.
    """
    from dreadnode.http.references import capability_ref
    from dreadnode.training.jobs import SftConfig, SftRequest

    if dataset is None and not trajectory_dataset:
        raise InputError("name the training dataset with `--dataset` or `--trajectory-dataset`")
    settings = given(flags, SftConfig, FLAG_NAMES)
    with common.client() as client:
        config = SftConfig(
            dataset_ref=dataset_ref(client, dataset) if dataset else None,
            trajectory_dataset_refs=dataset_refs(client, trajectory_dataset),
            eval_dataset_ref=dataset_ref(client, eval_dataset) if eval_dataset else None,
            **settings,
        )
        with flags_named(FLAG_NAMES):
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
    """Show a job that was just accepted, or wait until it has ended."""
    for note in job.preflight.format_notes if job.preflight else ():
        hint(f"chat format: {note}")
    if wait:
        from dreadnode.cli.train.progress import follow

        say(f"submitted job {job.id}: {views.data(job.preflight) or 'queued'}")
        say(*(f"dropped {line}" for line in views.dropped(job.preflight)))
        follow(client, job.id, common)
        return
    common.out.record(job, views.JOB)
    if not common.json:
        hint(f"`dn train wait {job.id}` follows it")


def dataset_ref(client: ApiClient, dataset: str) -> DatasetRef:
    """Return the reference of DATASET; a file or a folder is uploaded first."""
    from dreadnode.http import references

    path = references.local_path(dataset)
    return references.dataset_ref(dataset) if path is None else upload(client, path).ref


def dataset_refs(client: ApiClient, datasets: tuple[str, ...]) -> tuple[DatasetRef, ...] | None:
    """Return the references of DATASETS; None if there are none."""
    return tuple(dataset_ref(client, each) for each in datasets) or None
