"""Budgets: the limit of a job, the monthly limit of a workspace, and what jobs reserve of it.

A job reserves the most that it can cost when it is submitted, in the transaction that writes it and
with its workspace's row locked: of two jobs that together exceed the limit, one is refused. A job
counts towards the month, in UTC, in which it was submitted: with its reservation or its cost,
whichever is more, until it ends, and with its cost afterwards.
"""

from datetime import UTC, datetime
from decimal import Decimal

from sqlalchemy import case, func, select
from sqlalchemy.ext.asyncio import AsyncSession

from dreadnode_api.errors import Conflict, Invalid
from dreadnode_api.models.auth import Workspace
from dreadnode_api.models.jobs import ENDED, DeletedJobCost, Job
from dreadnode_api.pricing.estimate import estimate
from dreadnode_api.pricing.ledger import MAX_USD, MICRO, job_cost, job_rates, money, to_micro
from dreadnode_api.pricing.rates import KINDS, Cost

SETTING = "max_cost_usd"
STOPPED_BY = "budget"


def max_cost(job: Job) -> Decimal | None:
    """Return the limit that a job's own settings state, of all that its chain of retries costs."""
    value = job.config.get(SETTING)
    return None if value is None else Decimal(str(value))


def estimated(job: Job) -> tuple[Cost, Cost] | None:
    """Return the least and the most that a checked job can cost; None if that is not known."""
    plan = (job.preflight or {}).get("plan")
    if plan is None:
        return None
    found = estimate(plan, job_rates(job))
    return found.least, found.most


async def reserve(session: AsyncSession, job: Job) -> None:
    """Reserve the most that a new job can cost, in a writing transaction that has added it.

    Raises:
        Invalid: the job costs more than its own limit.
        Conflict: it does not fit into the workspace's monthly limit.
    """
    limit, bounds = max_cost(job), estimated(job)
    if limit is not None:
        _check_own_limit(job, limit, bounds)
    if not job.paid:
        return
    earlier = Decimal(job.earlier_usd or 0)
    candidates = [] if limit is None else [limit - earlier]
    if bounds is not None and bounds[1].total is not None:
        candidates.append(bounds[1].total)
    if candidates and min(candidates) > MAX_USD:
        advice = _advice(job, bounds, Decimal(MAX_USD), f"at most ${MAX_USD:,.0f}")
        raise Invalid(
            f"This job can cost ${min(candidates):,.0f}, which is more than a limit can be; "
            f"{advice}{'or ' if advice else ''}make the job smaller",
            "config",
            SETTING,
        )
    job.reserved_micro = to_micro(min(candidates)) if candidates else 0
    # `key_share`: inserts that refer to the row, such as those of jobs, need not wait.
    workspace = await session.get_one(
        Workspace, job.workspace_id, with_for_update={"key_share": True}, populate_existing=True
    )
    if workspace.monthly_limit_usd is None:
        return
    if not candidates:
        advice = f"Set `{SETTING}`" if _is_priced(job) else "Choose another model"
        raise Conflict(
            f"This workspace has a monthly limit of ${workspace.monthly_limit_usd}, and what this "
            f"job can cost is unknown: {_why_unknown(bounds)}. {advice}"
        )
    await session.flush()
    room = await room_in_month(session, job, Decimal(workspace.monthly_limit_usd))
    if min(candidates) > room:
        spent = f" and the ${_short(earlier)} of the jobs that it retries" if earlier else ""
        advice = _advice(job, bounds, room, f"what is left{spent}")
        raise Conflict(
            f"This job can cost ${_short(min(candidates))}, and the workspace has "
            f"${_short(max(room, Decimal(0)))} left of its ${workspace.monthly_limit_usd} for "
            f"{job.created_at:%B %Y}; {advice}make the job smaller, or ask an administrator to "
            "raise the limit with `dn workspace budget`"
        )


def _check_own_limit(job: Job, limit: Decimal, bounds: tuple[Cost, Cost] | None) -> None:
    earlier = Decimal(job.earlier_usd or 0)
    if job.paid and earlier >= limit:
        raise Invalid(
            f"`{SETTING}` is ${_short(limit)}, and the jobs that this one retries have cost "
            f"${_short(earlier)} already; set a larger limit",
            "config",
            SETTING,
        )
    if not _is_priced(job) and (bounds is None or bounds[1].total is None):
        raise Invalid(
            f"`{SETTING}` cannot be kept, because the price of {job.model} is not known: "
            f"{_why_unknown(bounds)}. Leave it out, or choose another model",
            "config",
            SETTING,
        )
    # A retry does only what its checkpoint has left to do, which the estimate of a whole job is
    # not; it stops at the limit anyway.
    if bounds is not None and job.retry_of is None:
        least = bounds[0].total
        if least is not None and least > limit:
            raise Invalid(
                f"This job costs at least ${_short(least)}, which is more than its `{SETTING}` of "
                f"${_short(limit)}; raise the limit, or make the job smaller",
                "config",
                SETTING,
            )


def _advice(job: Job, bounds: tuple[Cost, Cost] | None, limit: Decimal, amount: str) -> str:
    """Return the advice to limit a job to AMOUNT, with a comma; "" if it costs more in any case.

    What a retry has left to do, and so the least that it costs, is not known.
    """
    least = None if bounds is None or job.retry_of is not None else bounds[0].total
    is_useful = limit > 0 and (least is None or least <= limit)
    return f"set `{SETTING}` to {amount}, " if is_useful else ""


def _is_priced(job: Job) -> bool:
    """Whether the rates of all kinds of tokens are known."""
    rates = job_rates(job)
    return all(rates.of(kind) is not None for kind in KINDS)


def _why_unknown(bounds: tuple[Cost, Cost] | None) -> str:
    if bounds is None:
        return "there is no estimate of its tokens"
    return bounds[1].reason or bounds[0].reason or "a rate is not published"


async def limit_of(session: AsyncSession, job: Job) -> Decimal | None:
    """Return the cost at which a job stops after its step, that of the jobs it retries included.

    It is the job's own limit, or what the other jobs leave of the workspace's monthly limit.
    """
    if not job.paid:
        return None
    limits = [] if (own := max_cost(job)) is None else [own]
    monthly = await session.scalar(
        select(Workspace.monthly_limit_usd).where(Workspace.id == job.workspace_id)
    )
    if monthly is not None:
        room = await room_in_month(session, job, Decimal(monthly))
        limits.append(Decimal(job.earlier_usd or 0) + room)
    return min(limits) if limits else None


async def room_in_month(session: AsyncSession, job: Job, limit: Decimal) -> Decimal:
    """Return what the other jobs leave of a workspace's LIMIT for the month of JOB."""
    others = await spent_in_month(session, job.workspace_id, job.created_at, without=job.id)
    return limit - others


async def spent_in_month(
    session: AsyncSession, workspace_id: str, moment: datetime, *, without: str | None = None
) -> Decimal:
    """Return what the jobs of a workspace cost and reserve in the month of MOMENT."""
    start, end = month_of(moment)
    reserved = func.coalesce(Job.reserved_micro, 0)
    counted = case(
        (Job.status.in_(sorted(ENDED)), Job.cost_micro),
        (reserved > Job.cost_micro, reserved),
        else_=Job.cost_micro,
    )
    found = await session.scalar(
        select(func.coalesce(func.sum(counted), 0)).where(
            Job.workspace_id == workspace_id,
            Job.created_at >= start,
            Job.created_at < end,
            Job.id != (without or ""),
        )
    )
    deleted = await session.scalar(
        select(func.coalesce(func.sum(DeletedJobCost.cost_micro), 0)).where(
            DeletedJobCost.workspace_id == workspace_id,
            DeletedJobCost.created_at >= start,
            DeletedJobCost.created_at < end,
        )
    )
    return Decimal(int(found or 0) + int(deleted or 0)) / MICRO


def month_of(moment: datetime) -> tuple[datetime, datetime]:
    """Return the start of the month of MOMENT, in UTC, and that of the next."""
    start = datetime(moment.year, moment.month, 1, tzinfo=UTC)
    following = datetime(moment.year + moment.month // 12, moment.month % 12 + 1, 1, tzinfo=UTC)
    return start, following


def chain_cost(old: Job) -> str:
    """Return what an ended job and the jobs that it retries have cost, for the next retry."""
    own = job_cost(old).total if old.paid else None
    return money(Decimal(old.earlier_usd or 0) + (own or Decimal(0))) or "0"


def _short(usd: Decimal) -> str:
    """Return an amount for a sentence: to the cent, or to two significant digits below a cent."""
    if usd >= Decimal("0.1") or not usd:
        return f"{usd:.2f}"
    return money(Decimal(f"{usd:.2g}")) or ""
