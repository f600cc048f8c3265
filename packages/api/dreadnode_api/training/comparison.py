"""One job on every model of the catalog, side by side."""

from collections.abc import Mapping
from decimal import Decimal
from typing import Any

from app.training.catalog import TINKER_MODELS, TrainingModel, as_extended

from dreadnode_api.engine_client import Capabilities
from dreadnode_api.pricing.estimate import Estimate, estimate
from dreadnode_api.pricing.rates import rates_of
from dreadnode_api.pricing.tokenizers import STAND_IN, conversion, tokenizer_of
from dreadnode_api.training.planning import JobPlan
from dreadnode_api.training.preflight_schemas import ComparedModel, EstimateView


def compare(
    plan: JobPlan, report: Mapping[str, Any], engine: Capabilities
) -> list[ComparedModel] | None:
    """Return what the job of PLAN would cost on each model that can run it; None if unknown.

    The cheapest comes first, those without a known price after them, and retired ones last.
    """
    if report.get("plan") is None or report.get("characters_per_token") is None:
        return None
    algorithm = plan.config.get("algorithm", "sft")
    models = [
        each
        for model in TINKER_MODELS
        for each in (model, as_extended(model))
        if each is not None and algorithm in each.supported_algorithms
    ]
    priced = [(model, _price(plan, report, model)) for model in models]
    priced.sort(key=lambda each: _order(*each))
    return [
        ComparedModel.of(
            model,
            model=model.tinker_id,
            available=engine.trainable(model.tinker_id) is not None,
            fits=_longest(plan, report, model) <= model.context_length,
            price=EstimateView.model_validate(price.to_json()),
        )
        for model, price in priced
    ]


def _counted(plan: JobPlan) -> str:
    return STAND_IN if plan.rehearsal else tokenizer_of(plan.model.tokenizer_id)


def _same_tokenizer(plan: JobPlan, model: TrainingModel) -> bool:
    return not plan.rehearsal and model.tokenizer_id == plan.model.tokenizer_id


def _price(plan: JobPlan, report: Mapping[str, Any], model: TrainingModel) -> Estimate:
    counted, wanted = _counted(plan), tokenizer_of(model.tokenizer_id)
    density = report["characters_per_token"]
    if _same_tokenizer(plan, model):
        return estimate(report["plan"], rates_of(model))
    rates = rates_of(model)
    return estimate(
        report["plan"], rates, counted=counted, wanted=wanted, characters_per_token=density
    )


def _longest(plan: JobPlan, report: Mapping[str, Any], model: TrainingModel) -> int:
    """Return the longest sequence of the job on MODEL, by the upper end of its estimate."""
    longest = (report.get("lengths") or {"max": 0})["max"] + plan.config.get("max_new_tokens", 0)
    if _same_tokenizer(plan, model):
        return int(longest)
    density = report["characters_per_token"]
    found = conversion(_counted(plan), tokenizer_of(model.tokenizer_id), density)
    return int(longest * found.ratio * (1 + found.error))


def _order(model: TrainingModel, price: Estimate) -> tuple[bool, bool, Decimal, str]:
    total = price.most.total
    return model.status == "retired", total is None, total or Decimal(0), model.tinker_id
