"""The ledger of a job: the tokens that its attempts reported, and what they cost.

A sandbox reports the total of its attempt with every event, and leaves it in a file for the case
that it is killed. Totals of an attempt only grow, so a report that is repeated or late changes
nothing; the job's tokens are the sum over its attempts. They are priced with the rates that were in
force when the job was submitted, which stand on the job. A rehearsal, and a job on an engine of
one's own, cost nothing.
"""

from collections.abc import Mapping
from decimal import ROUND_CEILING, Decimal
from typing import Any

from sqlalchemy.ext.asyncio import AsyncSession

from dreadnode_api.models.jobs import DeletedJobCost, Job
from dreadnode_api.pricing.rates import KINDS, Cost, Rates, TokenCounts, cost

MAX_TOKENS = 2**63 - 1
"""Tokens of one kind that an attempt may report."""
MICRO = Decimal(1_000_000)
MAX_USD = 1e9
"""The largest limit of a job or of a workspace."""


def record_usage(job: Job, attempt: int, usage: Mapping[str, int]) -> None:
    """Take over the totals that a locked job's attempt has reported."""
    known = (job.usage or {}).get(str(attempt), {})
    totals: dict[str, int] = {kind: max(usage.get(kind, 0), known.get(kind, 0)) for kind in KINDS}
    if totals == known:
        return
    job.usage = {**(job.usage or {}), str(attempt): totals}
    total = job_cost(job).total
    job.cost_micro = to_micro(total) if job.paid and total is not None else 0


def read_usage(value: object) -> dict[str, int] | None:
    """Return the totals in the JSON that a sandbox left; None if it holds none."""
    if not isinstance(value, dict):
        return None
    usage: dict[str, int] = {}
    for kind in KINDS:
        count = value.get(kind)
        if type(count) is not int or not 0 <= count <= MAX_TOKENS:
            return None
        usage[kind] = count
    return usage


def keep_cost(session: AsyncSession, job: Job) -> None:
    """Keep the ledger of a job that is being deleted, if it has used any tokens."""
    if job.usage:
        names = [each.name for each in DeletedJobCost.__table__.columns]
        values = {name: getattr(job, name) for name in names if name != "job_id"}
        session.add(DeletedJobCost(job_id=job.id, **values))


def job_tokens(job: Job | DeletedJobCost) -> TokenCounts:
    """Return the tokens of all attempts of a job."""
    total = TokenCounts()
    for counts in (job.usage or {}).values():
        total += TokenCounts(**counts)
    return total


def job_rates(job: Job | DeletedJobCost) -> Rates:
    """Return the rates of a job; a job of an earlier version of this server has none."""
    return Rates(job.model) if job.rates is None else Rates.from_json(job.rates)


def job_cost(job: Job | DeletedJobCost) -> Cost:
    """Return what the tokens of a job cost at its rates, whether they are paid for or not."""
    return cost(job_tokens(job), job_rates(job))


def to_micro(usd: Decimal) -> int:
    """Return US dollars as millionths, rounded up, for sums that are compared with limits.

    More than the largest limit counts as that limit, because a column holds no more than 2^63; the
    exact cost follows from the tokens and the rates.
    """
    return int((min(usd, Decimal(MAX_USD)) * MICRO).to_integral_value(ROUND_CEILING))


def money(usd: Decimal | None) -> str | None:
    """Return an amount without an exponent and without zeros at its end."""
    if usd is None:
        return None
    text = format(usd, "f")
    return text.rstrip("0").rstrip(".") if "." in text else text


def cost_view(job: Job, limit: Decimal | None = None) -> dict[str, Any]:
    """Return the ledger of a job for responses; LIMIT is the cost at which it stops."""
    found = job_cost(job)
    return {
        "paid": job.paid,
        "usd": money(found.total) if job.paid else "0",
        "list_usd": money(found.total),
        "reason": found.reason,
        "tokens": job_tokens(job).to_json(),
        "list_usd_by_kind": {kind: money(usd) for kind, usd in found.by_kind.items()},
        "rates": job.rates,
        "earlier_usd": job.earlier_usd or "0",
        "limit_usd": money(limit),
    }
