"""`dn train sft`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from dreadnode.cli import views
from dreadnode.cli.context import DEFAULT, Common
from dreadnode.cli.output import hint, say
from dreadnode.cli.train.arguments import SftJob, Yes, requested
from dreadnode.cli.train.price import confirm

if TYPE_CHECKING:
    from dreadnode.http.references import AnyJobRequest
    from dreadnode.http.sync_api.client import ApiClient
    from dreadnode.training.jobs import TrainingJob

Wait = Annotated[bool, Parameter(help="Wait for the end of the job and show progress.")]


def sft(
    *,
    job: SftJob,
    wait: Wait = False,
    yes: Yes = False,
    common: Common = DEFAULT,
) -> None:
    """Submit a supervised fine-tuning job.

    Everything that can be refused is refused before anything runs: an unknown model, data that
    cannot be rendered, a setting out of range. The job's config echoes every default. A job that
    costs money shows its price and asks first.
    """
    with requested(job, common) as (client, request):
        create(client, request, common, yes=yes, wait=wait)


def create(
    client: ApiClient, request: AnyJobRequest, common: Common, *, yes: bool, wait: bool
) -> None:
    """Submit a job once its price is agreed to, and show it."""
    confirm(client, request, yes=yes)
    submitted(client, client.create_training_job(request), common, wait=wait)


def submitted(client: ApiClient, job: TrainingJob, common: Common, *, wait: bool) -> None:
    """Show a job that was just accepted, or wait until it has ended."""
    for note in job.preflight.format_notes if job.preflight else ():
        hint(f"chat format: {note}")
    if wait:
        from dreadnode.cli.train.progress import follow

        say(f"submitted job {job.id}: {views.data(job.preflight) or 'queued'}")
        say(*(f"dropped {line}" for line in views.dropped(job.preflight)))
        say(*(f"warning: {line}" for line in views.warnings(job.preflight)))
        follow(client, job.id, common)
        return
    common.out.record(job, views.JOB)
    if not common.json:
        hint(f"`dn train wait {job.id}` follows it")
