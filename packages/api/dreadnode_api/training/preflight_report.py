"""Reports on a job that does not exist yet."""

from dreadnode_api.auth.deps import WorkspaceScope
from dreadnode_api.errors import Invalid
from dreadnode_api.training import check_results
from dreadnode_api.training.check_request import CheckRequest
from dreadnode_api.training.checker import CheckResult
from dreadnode_api.training.comparison import compare
from dreadnode_api.training.job_report import price_of
from dreadnode_api.training.planning import JobPlan, Services, plan_job
from dreadnode_api.training.preflight_schemas import ComparedModel, PreflightReport
from dreadnode_api.training.schemas import EvalJobRequest, JobRequest
from dreadnode_api.training.warnings import warnings_of

POLL_SECONDS = 1.0


async def report(
    scope: WorkspaceScope,
    request: JobRequest,
    *,
    services: Services,
    show: int | None = None,
    compared: bool = False,
) -> PreflightReport:
    """Return what is known of the job of `request`.

    Args:
        scope: the caller and its workspace.
        request: the job.
        services: the application.
        show: number of a row to return as text; the first usable one by default.
        compared: whether to price the job on every model of the catalog.

    Raises:
        ApiError: the job would be refused.
    """
    plan = await plan_job(scope, request, services, show=show)
    result = await _result(plan.check, services)
    if (refusal := result.refusal()) is not None:
        raise refusal
    found = result.report or {}
    if show is not None and found.get("shown") is None:
        raise Invalid(
            f"Row {show} cannot be shown: it does not exist, or it cannot be used; the report "
            "without `show` says which rows cannot",
            "query",
            "show",
        )
    models = None
    if compared:
        if isinstance(request, EvalJobRequest):
            raise Invalid("An evaluation names its models; leave `compare` out", "query", "compare")
        models = compare(plan, found, await services.engine.capabilities())
    return _view(plan, found, services, models)


async def _result(request: CheckRequest, services: Services) -> CheckResult:
    """Return the stored result of a check, or run it for as long as the caller waits."""
    async with services.database.reading() as session:
        stored = await check_results.load(session, request)
    if stored is not None:
        return stored
    with services.preflight.check(request) as running:
        seconds = services.settings.preflight_wait_seconds
        while (result := await running.result(seconds)) is None:
            # It is slow: others must not wait for its slot.
            services.preflight.move_to_background(request, running)
            seconds = POLL_SECONDS
        return result


def _view(
    plan: JobPlan,
    found: dict[str, object],
    services: Services,
    models: list[ComparedModel] | None,
) -> PreflightReport:
    price = price_of(plan.model, plan.rates, found, rehearsal=plan.rehearsal)
    return PreflightReport.of(
        plan,
        report={**found, "datasets": plan.data.sources},
        warnings=warnings_of(plan.request.trainer_type, plan.config, found),
        price=None if price is None else price.to_json(),
        is_paid=services.settings.is_paid and not plan.rehearsal,
        comparison=models,
    )
