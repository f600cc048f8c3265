"""The report on a job that is kept with it: its data, its warnings and its price."""

from collections.abc import Mapping
from typing import Any

from dreadnode_api.models.jobs import Job
from dreadnode_api.pricing.estimate import Estimate, estimate
from dreadnode_api.pricing.ledger import job_rates
from dreadnode_api.pricing.rates import Rates
from dreadnode_api.training.warnings import warnings_of

NOT_KEPT = ("shown",)
"""What a check returns for the eyes of the person who asked only."""


def job_report(
    job: Job, report: Mapping[str, Any], sources: list[dict[str, Any]]
) -> dict[str, Any]:
    """Return what is kept of the REPORT of a job's check, with warnings and the price."""
    price = price_of(job_rates(job), report, rehearsal=job.rehearsal)
    return {
        **{name: value for name, value in report.items() if name not in NOT_KEPT},
        "datasets": sources,
        "warnings": warnings_of(job.trainer_type, job.config, report),
        "price": None if price is None else price.to_json(),
    }


def price_of(rates: Rates, report: Mapping[str, Any], *, rehearsal: bool) -> Estimate | None:
    """Return the price of the job of a check's REPORT at RATES.

    None if the tokens are not known: an earlier runtime reports none, and those of a rehearsal are
    the stand-in's.
    """
    plan = report.get("plan")
    if plan is None or rehearsal:
        return None
    return estimate(plan, rates)
