"""Turns rows of the database into responses."""

from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any

from dreadnode_api.jobs.waiting import Waiting
from dreadnode_api.models.auth import User
from dreadnode_api.models.jobs import ENDED, Event, Job, MetricPoints
from dreadnode_api.pricing.budget import max_cost
from dreadnode_api.pricing.ledger import cost_view
from dreadnode_api.training.defaults import complete
from dreadnode_api.training.schemas import LogEntry, TrainingJob


def job_view(
    job: Job,
    creator: User | None,
    history: Sequence[MetricPoints] = (),
    last_lines: Sequence[str] = (),
    waiting: Waiting | None = None,
    limit: Decimal | None = None,
    report: Mapping[str, Any] | None = None,
) -> TrainingJob:
    """Return the response for `job`; the other arguments are left out in lists.

    LIMIT is the cost at which it stops; its own limit if not given.
    """
    # A job that is older than a setting gets the setting's default as long as it may still run.
    config = job.config if job.status in ENDED else complete(job.trainer_type, job.config)
    return TrainingJob.of(
        job,
        organization_id=job.org_id,
        config=config,
        base_model=job.model,
        capability=job.capability or {},
        dataset_ref=config.get("dataset_ref"),
        eval_dataset_ref=config.get("eval_dataset_ref"),
        prompt_dataset_ref=config.get("prompt_dataset_ref"),
        trajectory_dataset_refs=config.get("trajectory_dataset_refs") or [],
        metrics={**job.scalars, **merge_history(history)},
        cost=cost_view(job, max_cost(job) if limit is None else limit),
        rehearsal_report=report,
        error_log=last_lines,
        queue_position=None if waiting is None else waiting.position,
        phase_reason=job.phase_reason if waiting is None else waiting.reason,
        created_by_email=creator.email if creator else None,
        created_by_user=creator,
    )


def merge_history(history: Sequence[MetricPoints]) -> Mapping[str, list[Any]]:
    """Return the list-valued metrics of a job, concatenated in the order of its events."""
    joined: dict[str, list[Any]] = {}
    for each in history:
        for name, values in each.lists.items():
            joined.setdefault(name, []).extend(values)
    return joined


def log_view(event: Event) -> LogEntry:
    """Return an event as a line of the job's log."""
    return LogEntry.of(
        event, timestamp=event.created_at, message=event.message or "", cursor=event.number
    )
