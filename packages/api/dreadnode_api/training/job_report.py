"""The report on a job that is kept with it: its data, its warnings and its price."""

from collections.abc import Mapping
from typing import Any

from app.training.catalog import TrainingModel, get_training_model

from dreadnode_api.models.jobs import Job
from dreadnode_api.pricing.estimate import Estimate, estimate
from dreadnode_api.pricing.ledger import job_rates
from dreadnode_api.pricing.rates import Rates
from dreadnode_api.pricing.tokenizers import STAND_IN, tokenizer_of
from dreadnode_api.training.starting_weights import ARTIFACT as START
from dreadnode_api.training.warnings import JobWarning, warnings_of

NOT_KEPT = ("shown",)
"""What a check returns for the eyes of the person who asked only."""


def job_report(
    job: Job, report: Mapping[str, Any], sources: list[dict[str, Any]]
) -> dict[str, Any]:
    """Return what is kept of the REPORT of a job's check, with warnings and the price."""
    kept = {name: value for name, value in report.items() if name not in NOT_KEPT}
    warnings = [*_of_start(job), *warnings_of(job.trainer_type, job.config, report)]
    return priced_again(job, {**kept, "datasets": sources, "warnings": warnings})


def priced_again(job: Job, report: Mapping[str, Any]) -> dict[str, Any]:
    """Return REPORT with the price at the rates of the job."""
    model = get_training_model(job.model)
    price = None
    if model is not None:
        price = price_of(model, job_rates(job), report, rehearsal=job.rehearsal)
    return {**report, "price": None if price is None else price.to_json()}


def _of_start(job: Job) -> list[JobWarning]:
    """Return the warning about a rehearsal that cannot start from the weights of its job."""
    if START not in job.config or START in (job.artifacts or {}):
        return []
    message = (
        f"The rehearsal starts with a new adapter of rank {job.config['lora_rank']}: "
        f"`{START}` names weights for `{job.model}`, and the stand-in has other shapes"
    )
    return [{"code": START, "message": message}]


def price_of(
    model: TrainingModel, rates: Rates, report: Mapping[str, Any], *, rehearsal: bool
) -> Estimate | None:
    """Return the price of the job of a check's REPORT on MODEL, at RATES.

    A rehearsal is free; its price is that of the job that it rehearses, estimated from the tokens
    of the stand-in. None if the tokens are not known, since an earlier runtime reports none.
    """
    plan, density = report.get("plan"), report.get("characters_per_token")
    if plan is None or (rehearsal and density is None):
        return None
    if not rehearsal:
        return estimate(plan, rates)
    own = tokenizer_of(model.tokenizer_id)
    return estimate(plan, rates, counted=STAND_IN, wanted=own, characters_per_token=density)
