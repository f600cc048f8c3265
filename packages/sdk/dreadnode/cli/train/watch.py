"""The events of a job as they happen: `dn train watch` and `dn train logs --follow`."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from dreadnode.cli.context import DEFAULT, Common
from dreadnode.cli.output import Output, show, when
from dreadnode.cli.train.jobs import Job
from dreadnode.cli.train.progress import follow, is_terminal, say_it_keeps_running

if TYPE_CHECKING:
    from collections.abc import Iterator

    from dreadnode.http.sync_api.client import ApiClient
    from dreadnode.training.jobs import JobEvent, LogEntry

LEVELS = ("debug", "info", "warning", "error")


def watch(job: Job, /, *, common: Common = DEFAULT) -> None:
    """Follow a job until it has ended.

    A terminal shows a live view: phase, progress, a chart, throughput, cost and the last log lines.
    A pipe gets the events from the job's start, one on each line; with `--json`, as JSON objects.
    The exit code is 0 only if the job completed.
    """
    from dreadnode.errors import JobEnded

    with common.client() as client:
        job = client.find_training_job(job)
        if is_terminal() and sys.stdout.isatty() and not common.json:
            follow(client, job, common, show_job=False)
            return
        for event in _events(client, job):
            _print(common.out, event.model_dump_json() if common.json else line(event))
        ended = client.get_training_job(job)
    if ended.status != "completed":
        raise JobEnded(ended)


def follow_logs(client: ApiClient, job: str, common: Common, *, after: int, level: str) -> None:
    """Print the log lines after the event AFTER, until the job has ended."""
    levels = LEVELS[LEVELS.index(level) :]
    for event in _events(client, job, after=after):
        if event.message is None or event.level not in levels:
            continue
        _print(common.out, event.model_dump_json() if common.json else log_line(event))


def log_line(entry: JobEvent | LogEntry) -> str:
    """Return one line of a log: time, level, message."""
    return f"{when(entry.timestamp)}  {entry.level:<7}  {show(entry.message)}"


def line(event: JobEvent) -> str:
    """Return EVENT as one line."""
    return f"{when(event.timestamp)}  {event.type:<16}  {show(_summary(event))}".rstrip()


def _summary(event: JobEvent) -> str:
    data, metrics = event.data, event.data.get("metrics") or {}
    if event.type == "step_complete":
        parts = [f"{data.get('step', '?')}/{data.get('steps', '?')}"]
        parts += [f"{_SHOWN[name]} {_last(metrics[name])}" for name in _SHOWN if name in metrics]
        return ", ".join(parts)
    if event.type == "eval_complete":
        return ", ".join(f"{name} {_last(value)}" for name, value in metrics.items())
    if event.message:
        return event.message
    values = [data.get(name) for name in ("status", "phase", "reason", "name")]
    return ", ".join(str(value) for value in values if value)


_SHOWN = {"train/loss": "loss", "train/learning_rate": "learning rate", "train/reward": "reward"}
"""The metrics of a step that are shown."""


def _last(value: object) -> str:
    newest = value[-1] if isinstance(value, list) and value else value
    return f"{newest:.4g}" if isinstance(newest, float) else str(newest)


def _events(client: ApiClient, job: str, *, after: int = 0) -> Iterator[JobEvent]:
    try:
        yield from client.watch_training_job(job, after=after)
    except KeyboardInterrupt:
        say_it_keeps_running(client, job)
        raise


def _print(out: Output, text: str) -> None:
    """Print a line and flush it, so that a pipe gets it immediately."""
    out.text(text)
    sys.stdout.flush()
