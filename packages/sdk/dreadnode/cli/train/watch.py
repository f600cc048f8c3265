"""What happens to a job, as it happens: `dn train watch` and `dn train logs --follow`."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from dreadnode.cli import views
from dreadnode.cli.context import DEFAULT, Common
from dreadnode.cli.output import Output, hint, show

if TYPE_CHECKING:
    from collections.abc import Iterator

    from dreadnode.http.sync_api.client import ApiClient
    from dreadnode.training.jobs import JobEvent, LogEntry

LEVELS = ("debug", "info", "warning", "error")


def watch(
    job: Annotated[str, Parameter(help="The job's id.")],
    /,
    *,
    common: Common = DEFAULT,
) -> None:
    """Show every event of a job until it has ended.

    Steps, phases, checkpoints and log lines, as they come; with `--json` one JSON object a line.
    The exit code is 0 only if the job completed.
    """
    from dreadnode.errors import JobEnded

    with common.client() as client:
        for event in _events(client, job):
            _tell(common.out, event.model_dump_json() if common.json else line(event))
        ended = client.get_training_job(job)
    if ended.status != "completed":
        raise JobEnded(ended)


def follow_logs(client: ApiClient, job: str, common: Common, *, after: int, level: str) -> None:
    """Show the log lines that come behind AFTER, until the job has ended."""
    wanted = LEVELS[LEVELS.index(level) :]
    for event in _events(client, job, after=after):
        if event.message is None or event.level not in wanted:
            continue
        _tell(common.out, event.model_dump_json() if common.json else log_line(event))


def log_line(entry: JobEvent | LogEntry) -> str:
    """Return one line of a log: time, level, message."""
    return f"{views.when(entry.timestamp)}  {entry.level:<7}  {show(entry.message)}"


def line(event: JobEvent) -> str:
    """Return EVENT as a line for people."""
    return f"{views.when(event.timestamp)}  {event.type:<16}  {show(_words(event))}".rstrip()


def _words(event: JobEvent) -> str:
    data, metrics = event.data, event.data.get("metrics") or {}
    if event.type == "step_complete":
        words = [f"{data.get('step', '?')}/{data.get('steps', '?')}"]
        words += [f"{_TOLD[name]} {_last(metrics[name])}" for name in _TOLD if name in metrics]
        return ", ".join(words)
    if event.type == "eval_complete":
        return ", ".join(f"{name} {_last(value)}" for name, value in metrics.items())
    if event.message:
        return event.message
    parts = [data.get(name) for name in ("status", "phase", "reason", "name")]
    return ", ".join(str(part) for part in parts if part)


_TOLD = {"train/loss": "loss", "train/learning_rate": "learning rate", "train/reward": "reward"}
"""The metrics of a step that are shown."""


def _last(value: object) -> str:
    newest = value[-1] if isinstance(value, list) and value else value
    return f"{newest:.4g}" if isinstance(newest, float) else str(newest)


def _events(client: ApiClient, job: str, *, after: int = 0) -> Iterator[JobEvent]:
    try:
        yield from client.watch_training_job(job, after=after)
    except KeyboardInterrupt:
        hint(
            f"the job continues: `dn train watch {job}` follows it, "
            f"`dn train cancel {job}` stops it"
        )
        raise


def _tell(out: Output, text: str) -> None:
    """Print a line and flush it."""
    out.text(text)
    sys.stdout.flush()
