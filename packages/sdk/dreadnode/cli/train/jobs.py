"""`dn train list | get | wait | logs | artifacts | cancel | retry`."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal

from cyclopts import Parameter

from dreadnode.cli import units, views
from dreadnode.cli.context import DEFAULT, Common
from dreadnode.cli.output import hint, say, show
from dreadnode.errors import InputError

Job = Annotated[str, Parameter(help="The job's id.")]
Level = Literal["debug", "info", "warning", "error"]
Status = Literal["queued", "running", "completed", "failed", "cancelled"]


def list_jobs(
    *,
    status: Annotated[Status | None, Parameter(help="Only jobs in this state.")] = None,
    page: Annotated[int, Parameter(help="Which page.", show_default=True)] = 1,
    page_size: Annotated[int, Parameter(help="Jobs on a page.", show_default=True)] = 20,
    common: Common = DEFAULT,
) -> None:
    """List jobs, newest first."""
    with common.client() as client:
        found = client.list_training_jobs(page=page, page_size=page_size, status=status)
    common.out.rows(found.items, views.JOBS, none="no jobs")
    if found.total > page * page_size:
        hint(f"{found.total:,} in all; `dn train list --page {page + 1}` shows more")


def get(job: Job, /, *, common: Common = DEFAULT) -> None:
    """Show one job, and of a failed one the last lines of its log."""
    with common.client() as client:
        found = client.get_training_job(job)
    common.out.record(found, views.JOB)
    if found.error_log and not common.json:
        common.out.text("", "The last lines of its log:")
        common.out.text(*(f"  {show(line)}" for line in found.error_log))


def wait(
    job: Job,
    /,
    *,
    timeout: Annotated[
        float | None,
        Parameter(converter=units.seconds, help="Longest time to wait: seconds, or `90s`, `1h`."),
    ] = None,
    common: Common = DEFAULT,
) -> None:
    """Wait until a job has ended, showing its progress; exit code 0 only if it completed."""
    from dreadnode.cli.train.progress import follow

    with common.client() as client:
        follow(client, job, common, timeout=timeout)


def logs(
    job: Job,
    /,
    *,
    follow: Annotated[bool, Parameter(help="Follow the log until the job has ended.")] = False,
    level: Annotated[Level, Parameter(help="The least level.")] = "debug",
    since: Annotated[
        datetime | None, Parameter(help="Only lines from then on, as 2026-11-22T08:30:00.")
    ] = None,
    tail: Annotated[int | None, Parameter(help="Only so many lines, the last ones.")] = None,
    query: Annotated[str | None, Parameter(help="Only lines that hold these words.")] = None,
    common: Common = DEFAULT,
) -> None:
    """Show a job's log; with `--follow` and `--json`, one JSON object a line."""
    from dreadnode.cli.train.watch import follow_logs, log_line

    if follow and query:
        raise InputError("`--query` looks through what is there; leave out `--follow`")
    if tail is not None and tail < 1:
        raise InputError(f"`--tail` must be above 0, and is {tail}")
    with common.client() as client:
        found = client.list_training_job_logs(job, level=level, since=since, tail=tail, query=query)
        entries = found.items
        if common.json and not follow:
            common.out.json([entry.model_dump(mode="json") for entry in entries])
            return
        for entry in entries:
            common.out.text(entry.model_dump_json() if common.json else log_line(entry))
        if follow:
            last = max((entry.cursor for entry in entries), default=0)
            follow_logs(client, job, common, after=last, level=level)
        elif not entries:
            say("no log lines" if query or level != "debug" else "no log lines yet")


def artifacts(job: Job, /, *, common: Common = DEFAULT) -> None:
    """Show what a job has made: checkpoints, dataset, adapter."""
    with common.client() as client:
        made = client.get_training_job_artifacts(job)
    if common.json:
        common.out.json(made.model_dump(mode="json"))
        return
    width = max(map(len, made.artifacts), default=0)
    for name, value in made.artifacts.items():
        for each in value if isinstance(value, list) else [value]:
            common.out.text(f"{name:<{width}}  {show(each)}")
    if not made.artifacts:
        say("nothing yet")


def cancel(job: Job, /, *, common: Common = DEFAULT) -> None:
    """Stop a job: a queued one at once, a running one after it has saved a checkpoint."""
    with common.client() as client:
        stopped = client.cancel_training_job(job)
    common.out.record(stopped, views.JOB)
    if not stopped.has_ended:
        hint(f"it saves a checkpoint first; `dn train wait {job}` waits for that")


def retry(
    job: Job,
    /,
    *,
    from_start: Annotated[
        bool,
        Parameter(help="Start over from step 0, even if checkpoints are left."),
    ] = False,
    common: Common = DEFAULT,
) -> None:
    """Make a new job that repeats a failed or cancelled one, from its newest checkpoint.

    It says where it begins; a job that never saved a checkpoint starts over. One whose
    checkpoints have all expired is refused without `--from-start`.
    """
    with common.client() as client:
        repeated = client.retry_training_job(job, from_start=from_start)
    common.out.record(repeated, views.JOB)
    if repeated.start_step == 0 and not from_start:
        say(f"job {job} had not saved a checkpoint, so its steps are taken again from step 0")
    hint(f"`dn train wait {repeated.id}` follows it")
