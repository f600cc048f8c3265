"""Plans a job: everything about a request that is decided before its data is checked."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from app.training.catalog import TrainingModel
from sqlalchemy.ext.asyncio import AsyncSession

from dreadnode_api.auth.deps import WorkspaceScope
from dreadnode_api.blob_store import BlobStore
from dreadnode_api.capabilities import service as capabilities
from dreadnode_api.db import Database
from dreadnode_api.engine_client import EngineClient
from dreadnode_api.errors import Invalid
from dreadnode_api.models.capabilities import CapabilityVersion
from dreadnode_api.pricing.rates import Rates, rates_of
from dreadnode_api.sandbox import trackers
from dreadnode_api.settings import Settings
from dreadnode_api.training.check_request import CheckRequest, check_request
from dreadnode_api.training.checks import known_model, require_memory, resolved, served, supported
from dreadnode_api.training.data import JobData, resolve_data
from dreadnode_api.training.evaluated_models import (
    check_common_price,
    find_models,
    resolved_evaluation,
)
from dreadnode_api.training.preflight import Preflight
from dreadnode_api.training.schemas import EvalJobRequest, JobRequest, RlJobRequest, SftJobRequest
from dreadnode_api.training.starting_weights import (
    StartingWeights,
    check_base,
    find_starting_weights,
    with_shape,
)
from dreadnode_api.training.validation import Validator


@dataclass(frozen=True, slots=True)
class Services:
    """What creating a job needs of the application."""

    database: Database
    engine: EngineClient
    store: BlobStore
    preflight: Preflight
    validator: Validator
    settings: Settings


@dataclass(frozen=True, slots=True)
class JobPlan:
    """A job that has passed all checks but that of its data.

    Attributes:
        request: the request, of a kind that is supported here.
        model: the entry of the catalog.
        trained_model: the model that the engine trains; in a rehearsal, the stand-in.
        rehearsal: whether a stand-in takes the model's place.
        rates: what the tokens cost.
        config: the settings, with every default filled in.
        check: the check of the data.
        models: of an evaluation, the models.
        start: the weights that it starts from; None for a new adapter.
    """

    request: SftJobRequest | RlJobRequest | EvalJobRequest
    model: TrainingModel
    trained_model: str
    rehearsal: bool
    rates: Rates
    config: dict[str, Any]
    data: JobData
    check: CheckRequest
    capability: CapabilityVersion | None = None
    models: Sequence[Mapping[str, Any]] = ()
    start: StartingWeights | None = None


async def plan_job(
    scope: WorkspaceScope, request: JobRequest, services: Services, *, show: int | None = None
) -> JobPlan:
    """Return the job with resolved settings and data, and the check that it still needs.

    The order of the checks is documented: catalog, algorithm, engine, references, limits.

    Args:
        scope: the caller and its workspace.
        request: the job.
        services: the application.
        show: number of a row that the check returns as text.

    Raises:
        ApiError: the catalog, the engine, a reference or a setting does not allow the job.
    """
    if isinstance(request, EvalJobRequest):
        return await _plan_evaluation(scope, request, services, show=show)
    model = known_model(request)
    request = supported(request, model)
    trained = served(request, model, await services.engine.capabilities())
    async with services.database.reading() as session:
        capability = await _capability(session, scope, request)
        data = await resolve_data(session, scope.org_id, request, services.store)
        start = None
        if request.config.from_adapter is not None:
            start = await find_starting_weights(session, scope.caller, request.config.from_adapter)
    if start is not None:
        shaped = with_shape(request.config, start)
        request = request.model_copy(update={"config": shaped})
        if request.rehearse and start.base_model != trained.model_name:
            # The stand-in has other shapes: the rehearsal begins with a new adapter and says so.
            start = None
        else:
            check_base(start, trained.model_name)
    config = {**resolved(request, model, trained), **data.splits}
    await require_memory(services.engine, trained.model_name, config)
    track, project = request.config.track, request.config.track_project
    config |= trackers.resolve(track, project, services.settings)
    if capability is not None:
        config["system_prompt"] = capability.prompt
    check = check_request(
        scope.org_id,
        data,
        model=request.model_id,
        rehearsal=request.rehearse,
        trained_model=trained.model_name,
        tokenizer=trained.tokenizer_id or model.tokenizer_id,
        trainer_type=request.trainer_type,
        config=config,
        show=show,
    )
    return JobPlan(
        request,
        model,
        trained.model_name,
        request.rehearse,
        rates_of(model),
        config,
        data,
        check,
        capability,
        start=start,
    )


async def _plan_evaluation(
    scope: WorkspaceScope, request: EvalJobRequest, services: Services, *, show: int | None
) -> JobPlan:
    """Return an evaluation with its models and settings resolved.

    Raises:
        ApiError: a model, a reference or a setting does not allow the job.
    """
    if request.backend != "tinker":
        raise Invalid("Evaluations run on the backend `tinker`", "backend")
    engine = await services.engine.capabilities()
    async with services.database.reading() as session:
        found = await find_models(session, scope.caller, engine, request.config)
        data = await resolve_data(session, scope.org_id, request, services.store)
    config = resolved_evaluation(request.config, found) | data.splits
    if services.settings.is_paid and found.rates.prefill is None:
        check_common_price(found)
    check = check_request(
        scope.org_id,
        data,
        model=found.catalog.tinker_id,
        rehearsal=found.rehearsal,
        trained_model=found.trained_model,
        tokenizer=found.models[0]["tokenizer"],
        trainer_type=request.trainer_type,
        config=config,
        show=show,
        formats=found.formats,
    )
    return JobPlan(
        request,
        found.catalog,
        found.trained_model,
        found.rehearsal,
        found.rates,
        config,
        data,
        check,
        models=found.models,
    )


async def _capability(
    session: AsyncSession, scope: WorkspaceScope, request: SftJobRequest | RlJobRequest
) -> CapabilityVersion | None:
    """Return the capability whose prompt the job uses.

    Raises:
        Invalid: it does not exist or has no prompt, or the config has its own prompt or takes none.
    """
    ref = request.capability_ref
    if ref is None:
        return None
    found = await capabilities.for_job(session, scope.org_id, ref.name, ref.version)
    if found is not None and request.config.system_prompt is not None:
        raise Invalid(
            "`capability_ref` and `system_prompt` both set the system prompt; use one of them",
            "capability_ref",
        )
    form = getattr(request.config, "format", None) or "conversations"
    if found is not None and form != "conversations":
        raise Invalid(
            f"`capability_ref` names a system prompt, which is for conversations, and the `format` "
            f"is `{form}`; leave `capability_ref` out",
            "capability_ref",
        )
    return found
