"""`dn train list | get | wait | logs | artifacts | cancel | retry`."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import Annotated, Literal

from cyclopts import Parameter

from dreadnode.cli import units, views
from dreadnode.cli.completion import model_ids
from dreadnode.cli.context import DEFAULT, Common
from dreadnode.cli.output import hint, say, show
from dreadnode.cli.train.arguments import Yes
from dreadnode.cli.train.price import confirm_retry
from dreadnode.errors import InputError

Job = Annotated[
    str, Parameter(help="Job: its id or the start of it, its name, or `last` for your newest job.")
]
Level = Literal["debug", "info", "warning", "error"]
Status = Literal["queued", "running", "completed", "failed", "cancelled"]


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class Weights:
    """The flags that choose weights of a job in place of its final ones."""

    checkpoint: Annotated[
        str | None,
        Parameter(
            help="Checkpoint instead of the final weights: a name of `dn train checkpoints`, such "
            "as `step-000010`, a path, or `best` for the best so far."
        ),
    ] = None
    best: Annotated[
        bool, Parameter(help="Weights of the best evaluation instead of the final ones.")
    ] = False

    def refuse_two_choices(self) -> None:
        """Return if at most one of the flags is given."""
        if self.best and self.checkpoint is not None:
            raise InputError("use `--best` or `--checkpoint`, not both")


FINAL = Weights()


def list_jobs(
    *,
    status: Annotated[Status | None, Parameter(help="Only jobs with this status.")] = None,
    kind: Annotated[
        Literal["sft", "rl", "eval"] | None, Parameter(help="Only jobs of this kind.")
    ] = None,
    name: Annotated[str | None, Parameter(help="Only jobs with this name.")] = None,
    tag: Annotated[str | None, Parameter(help="Only jobs with this tag.")] = None,
    user: Annotated[str | None, Parameter(help="Only jobs of this user.")] = None,
    model: Annotated[
        str | None, Parameter(help="Only jobs of this base model.", completer=model_ids)
    ] = None,
    page: Annotated[int, Parameter(help="Page number.", show_default=True)] = 1,
    page_size: Annotated[int, Parameter(help="Jobs per page.", show_default=True)] = 20,
    watch: Annotated[bool, Parameter(help="Keep the table up to date, until Ctrl-C.")] = False,
    common: Common = DEFAULT,
) -> None:
    """List jobs, newest first.

    The ids are shortened, and commands take them so. LOSS and EVAL are the newest values, LR is the
    peak learning rate.
    """
    with common.client() as client:
        fetch = partial(
            client.list_training_jobs,
            page=page,
            page_size=page_size,
            status=status,
            trainer_type=kind,
            name=name,
            tag=tag,
            username=user,
            model=model,
        )
        if watch:
            from dreadnode.cli.train.list_watch import watch_list

            watch_list(fetch, common.out)
            return
        found = fetch()
    common.out.rows(found.items, views.job_rows(found.items), none="no jobs", shrink=views.SHRINK)
    if found.total > page * page_size and not common.json:
        hint(f"{found.total:,} in all; `dn train list --page {page + 1}` shows more")


def get(job: Job, /, *, common: Common = DEFAULT) -> None:
    """Show one job, and the last log lines of a failed one."""
    with common.client() as client:
        found = client.get_training_job(client.find_training_job(job))
    common.out.record(found, views.JOB)
    if found.error_log and not common.json:
        common.out.text("", "The last lines of its log:")
        common.out.text(*(f"  {show(line)}" for line in found.error_log))
    if found.better_evaluation and not common.json:
        hint(views.take_best(found))


def wait(
    job: Job,
    /,
    *,
    timeout: Annotated[
        float | None,
        Parameter(converter=units.seconds, help="Longest wait: seconds, or `90s`, `1h`."),
    ] = None,
    common: Common = DEFAULT,
) -> None:
    """Wait for the end of a job and show its progress; exit code 0 only if it completed."""
    from dreadnode.cli.train.progress import follow

    with common.client() as client:
        follow(client, client.find_training_job(job), common, timeout=timeout)


def logs(
    job: Job,
    /,
    *,
    follow: Annotated[bool, Parameter(help="Continue until the job has ended.")] = False,
    level: Annotated[Level, Parameter(help="Lowest level.", show_default=True)] = "debug",
    since: Annotated[
        datetime | None, Parameter(help="Only lines from this time on, as 2026-11-22T08:30:00.")
    ] = None,
    tail: Annotated[int | None, Parameter(help="Number of lines, from the end.")] = None,
    query: Annotated[str | None, Parameter(help="Only lines that contain this text.")] = None,
    common: Common = DEFAULT,
) -> None:
    """Show a job's log; with `--follow` and `--json`, one JSON object on each line."""
    from dreadnode.cli.train.watch import follow_logs, log_line

    if follow and query:
        raise InputError("`--query` searches the existing lines; leave out `--follow`")
    if tail is not None and tail < 1:
        raise InputError(f"`--tail` must be above 0, not {tail}")
    with common.client() as client:
        job = client.find_training_job(job)
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
            say("no log lines match" if query or level != "debug" else "no log lines yet")


def artifacts(job: Job, /, *, common: Common = DEFAULT) -> None:
    """Show a job's artifacts: checkpoints, dataset, adapter."""
    with common.client() as client:
        job = client.find_training_job(job)
        made = client.get_training_job_artifacts(job)
        status = "" if made.artifacts else client.get_training_job(job).status
    if common.json:
        common.out.json(made.model_dump(mode="json"))
        return
    common.out.fields(made.artifacts)
    if not made.artifacts:
        ended = status in ("completed", "failed", "cancelled")
        say(f"job {job} {status} without artifacts" if ended else "no artifacts yet")


def cancel(job: Job, /, *, common: Common = DEFAULT) -> None:
    """Stop a job: a queued one immediately, a running one after it has saved a checkpoint."""
    with common.client() as client:
        stopped = client.cancel_training_job(client.find_training_job(job))
    common.out.record(stopped, views.JOB)
    if not stopped.has_ended and not common.json:
        hint(f"it saves a checkpoint first; `dn train wait {job}` waits for that")


def retry(
    job: Job,
    /,
    *,
    from_start: Annotated[
        bool, Parameter(help="Start at step 0 and ignore the checkpoints.")
    ] = False,
    max_cost_usd: Annotated[
        float | None,
        Parameter(
            converter=units.dollars,
            help="Maximum cost in US dollars, that of the repeated jobs included; the old limit if "
            "not set.",
        ),
    ] = None,
    yes: Yes = False,
    common: Common = DEFAULT,
) -> None:
    """Create a job that repeats an ended one from its newest checkpoint.

    The job has failed, was cancelled, or was stopped by its budget. The output names the first
    step. A job without a checkpoint starts over. A job whose checkpoints
    have all expired is refused without `--from-start`.
    """
    with common.client() as client:
        job_id = client.find_training_job(job)
        confirm_retry(client, job_id, yes=yes)
        repeated = client.retry_training_job(
            job_id, from_start=from_start, max_cost_usd=max_cost_usd
        )
    common.out.record(repeated, views.JOB)
    if common.json:
        return
    if repeated.start_step == 0 and not from_start:
        say(f"job {job} had no checkpoint, so the retry starts at step 0")
    hint(f"`dn train wait {repeated.id}` follows it")
