"""The models of an evaluation: which weights each name means, and what the weights share."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from app.training.catalog import TrainingModel, get_training_model
from sqlalchemy.ext.asyncio import AsyncSession

from dreadnode_api.auth.callers import Caller
from dreadnode_api.checkpoints.targets import Target, find_target
from dreadnode_api.engine_client import Capabilities
from dreadnode_api.errors import Conflict, Invalid, NotFound
from dreadnode_api.models.jobs import Job
from dreadnode_api.pricing.rates import KINDS, Rates, rates_of
from dreadnode_api.training.checks import check_room
from dreadnode_api.training.defaults import with_defaults
from dreadnode_api.training.eval_schemas import EvalConfig

LOC = ("config", "models")
ARTIFACT = "models"
"""The artifact of an evaluation that lists its models."""
INHERITED = ("system_prompt", "train_on")
"""Settings of the jobs that an evaluation takes over, if they agree."""
FORMAT = ("model", "rehearsal", "tokenizer", "renderer", "chosen_tokenizer")
"""What decides about a model's chat format."""
_OPENING = ("base_model", "checkpoint", *FORMAT)
_OF_JOBS = ("renderer", "chosen_tokenizer")
"""What a base model takes over of the first job on it."""


@dataclass(frozen=True, slots=True)
class EvaluatedModels:
    """The models of an evaluation.

    Attributes:
        models: What the runtime and the result say of each model.
        catalog: the catalog's entry of the first model that has one.
        rehearsal: whether all of them are stand-ins.
        rates: their common rates; unknown if they differ.
        context: the smallest context.
        inherited: settings that the jobs share.
    """

    models: Sequence[Mapping[str, Any]]
    catalog: TrainingModel
    rehearsal: bool
    rates: Rates
    context: int
    inherited: Mapping[str, Any]

    @property
    def trained_model(self) -> str:
        """The base model of the first one, as the engine names it."""
        return str(self.models[0]["base_model"])

    @property
    def formats(self) -> list[dict[str, Any]]:
        """The chat format of each model."""
        return [{name: model[name] for name in FORMAT} for model in self.models]


async def find_models(
    session: AsyncSession, caller: Caller, engine: Capabilities, config: EvalConfig
) -> EvaluatedModels:
    """Return the models that CONFIG names, each base model in front of its jobs.

    Raises:
        Invalid: one does not exist or cannot be sampled from, or two are the same.
    """
    named = [(name, await _target(session, caller, engine, name)) for name in config.models]
    jobs = [await session.get_one(Job, t.weights["job_id"]) for _, t in named if t.weights]
    if config.include_base is not False:
        named = [*await _bases(session, caller, engine, [t for _, t in named]), *named]
    formats = {t.opening["base_model"]: t.opening for _, t in reversed(named) if t.weights}
    named = [(name, _in_format_of_jobs(target, formats)) for name, target in named]
    _refuse_equal(named)
    catalog = [m for _, t in named if (m := get_training_model(t.opening["model"])) is not None]
    if not catalog:
        raise Invalid("Name a job, or a model of `dn train catalog`", *LOC)
    return EvaluatedModels(
        models=[_described(name, target) for name, target in named],
        catalog=catalog[0],
        rehearsal=all(target.opening["rehearsal"] for _, target in named),
        rates=_common_rates(catalog),
        context=min(target.opening["context"] for _, target in named),
        inherited=_inherited(jobs, config),
    )


async def _target(session: AsyncSession, caller: Caller, engine: Capabilities, name: str) -> Target:
    try:
        target = await find_target(session, caller, engine, name)
    except (NotFound, Conflict, Invalid) as refusal:
        raise Invalid(f"`{name}` cannot be evaluated: {refusal.detail}", *LOC) from None
    if target.opening["tokenizer"] is None:
        raise Invalid(f"The tokenizer of `{name}` is not known, so it cannot be evaluated", *LOC)
    return target


async def _bases(
    session: AsyncSession, caller: Caller, engine: Capabilities, targets: Sequence[Target]
) -> list[tuple[str, Target]]:
    """Return the base models of the jobs among TARGETS that are not named themselves."""
    named = {t.opening["base_model"] for t in targets if t.weights is None}
    wanted = dict.fromkeys(t.opening["base_model"] for t in targets if t.weights is not None)
    bases = []
    for base in wanted:
        if base not in named:
            target = await _target(session, caller, engine, base)
            # A stand-in takes the place of the model that the job names.
            model = next(t.opening["model"] for t in targets if t.opening["base_model"] == base)
            bases.append((base, replace(target, opening={**target.opening, "model": model})))
    return bases


def _in_format_of_jobs(target: Target, formats: Mapping[str, Mapping[str, Any]]) -> Target:
    """Return a base model in the chat format of the first job on it, so that they compare."""
    if target.weights is not None:
        return target
    of_job = formats.get(target.opening["base_model"], {})
    taken = {name: of_job.get(name) for name in _OF_JOBS}
    return replace(target, opening={**target.opening, **taken})


def _described(name: str, target: Target) -> dict[str, Any]:
    weights = target.weights or {}
    return {
        "name": name,
        **{each: target.opening[each] for each in _OPENING},
        "lineage": target.lineage,
        "job_id": weights.get("job_id"),
        "step": weights.get("step"),
    }


def _refuse_equal(named: Sequence[tuple[str, Target]]) -> None:
    seen: dict[str, str] = {}
    for name, target in named:
        weights = target.key[1]
        if weights in seen:
            raise Invalid(
                f"`{seen[weights]}` and `{name}` are the same weights; name them once", *LOC
            )
        seen[weights] = name


def _common_rates(models: Sequence[TrainingModel]) -> Rates:
    rates = {each.tinker_id: rates_of(each) for each in models}
    first = next(iter(rates.values()))
    if all(each.of(kind) == first.of(kind) for each in rates.values() for kind in KINDS):
        return first
    return Rates(" and ".join(rates))


def _inherited(jobs: Sequence[Job], config: EvalConfig) -> dict[str, Any]:
    """Return the settings that the JOBS share and CONFIG leaves out.

    Raises:
        Invalid: the jobs have different system prompts.
    """
    found: dict[str, Any] = {}
    for name in INHERITED:
        if getattr(config, name) is not None or (name == "train_on" and config.loss is False):
            continue
        values = {job.config.get(name) for job in jobs if name != "train_on" or name in job.config}
        if len(values) == 1 and None not in values:
            found[name] = values.pop()
        elif len(values) > 1 and name == "system_prompt":
            raise Invalid(
                "The jobs have different system prompts, and all models must get the same rows; "
                "set `system_prompt`",
                "config",
                name,
            )
    return found


def resolved_evaluation(config: EvalConfig, found: EvaluatedModels) -> dict[str, Any]:
    """Return the settings with every default filled in, checked against the models' contexts.

    Raises:
        Invalid: a row or a completion does not fit.
    """
    given = config.model_dump(include=config.model_fields_set, mode="json")
    # None is "not set", as everywhere.
    known = {name: value for name, value in given.items() if value is not None}
    values = with_defaults(EvalConfig, {**found.inherited, **known}, found.context)
    if values["max_sequence_length"] >= found.context:
        raise Invalid(
            f"`max_sequence_length` is {values['max_sequence_length']}, and must be below "
            f"{found.context}, the smallest context of the models",
            "config",
            "max_sequence_length",
        )
    check_room(values, "max_tokens")
    return values


def check_common_price(found: EvaluatedModels) -> None:
    """Return if the price of an evaluation that is paid for is that of one model.

    Raises:
        Invalid: its models have no common price, so that its cost could not be known.
    """
    models = sorted({str(model["model"]) for model in found.models})
    if len(models) < 2:
        return
    entries = {each: get_training_model(each) for each in models}
    unpublished = [
        name for name, entry in entries.items() if entry is None or rates_of(entry).prefill is None
    ]
    if unpublished:
        why = f"The catalog has no published price of {_quoted(unpublished)} for `prefill` tokens"
    else:
        why = f"{_quoted(models)} have different prices"
    raise Invalid(
        f"{why}, so the cost of one job with these models could not be known; evaluate them in "
        "separate jobs",
        *LOC,
    )


def _quoted(names: Sequence[str]) -> str:
    return " and ".join(f"`{name}`" for name in names)
