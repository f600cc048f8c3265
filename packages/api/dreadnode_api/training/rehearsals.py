"""Rehearsals: jobs that start after one, and what a rehearsal has shown."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from dreadnode_api.models.jobs import Event, Job, MetricPoints
from dreadnode_api.pricing.ledger import job_tokens
from dreadnode_api.training.views import merge_history

SAMPLE = 4
"""The first and the last of this many parts of the steps are compared."""
FLAT = 0.02
"""A change of the mean by less than this share is none."""
_METRICS = (("reward", "train/reward"), ("loss", "train/loss"))


async def rehearsal_report(
    session: AsyncSession, job: Job, history: Sequence[MetricPoints]
) -> dict[str, Any] | None:
    """Return what a rehearsal has shown so far, and what the whole job would take and cost.

    None before its first step, and for other jobs.
    """
    if not job.rehearsal:
        return None
    lists = merge_history(history)
    name, values = next(
        ((name, lists[metric]) for name, metric in _METRICS if lists.get(metric)), ("", [])
    )
    known = [value for value in values if value is not None]
    if not known:
        return None
    steps = len(values)
    plan = (job.preflight or {}).get("plan") or {}
    whole_steps = plan.get("steps")
    seconds = await _seconds_per_step(session, job)
    # The estimate of the job itself, which is converted to the tokenizer of its model.
    price = (job.preflight or {}).get("price") or {}
    return {
        "steps": steps,
        **_movement(name, known),
        "tokens_per_step": round(job_tokens(job).total / steps, 1),
        "seconds_per_step": None if seconds is None else round(seconds, 3),
        "whole_steps": whole_steps,
        "whole_seconds": round(seconds * whole_steps, 1) if seconds and whole_steps else None,
        "whole_usd_at_least": price["at_least"]["usd"] if price else None,
        "whole_usd_at_most": price["at_most"]["usd"] if price else None,
    }


def _movement(name: str, values: list[float]) -> dict[str, Any]:
    part = max(len(values) // SAMPLE, 1)
    first, last = sum(values[:part]) / part, sum(values[-part:]) / part
    change = last - first
    moving = "falling" if change < 0 else "rising"
    if len(values) < 2 or abs(change) <= FLAT * max(abs(first), abs(last)):
        moving = "flat"
    return {"metric": name, "first": first, "last": last, "movement": moving}


async def _seconds_per_step(session: AsyncSession, job: Job) -> float | None:
    """Return the mean time of a step since the newest start of the job."""
    found = await session.execute(
        select(Event.type, Event.created_at)
        .where(Event.job_id == job.id, Event.type.in_(("training_start", "step_complete")))
        .order_by(Event.number)
    )
    start: datetime | None = None
    end: datetime | None = None
    steps = 0
    for kind, moment in found:
        if kind == "training_start":
            start, steps = moment, 0
        else:
            end, steps = moment, steps + 1
    if start is None or end is None or not steps:
        return None
    return (end - start).total_seconds() / steps
