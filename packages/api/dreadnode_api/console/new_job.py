"""The form of a new job, checked as one fills it in."""

import hashlib
from collections.abc import Mapping
from functools import partial
from typing import Annotated, Any

from app.training.catalog import TINKER_MODELS
from fastapi import APIRouter, Query
from sqlalchemy.ext.asyncio import AsyncSession
from starlette.responses import Response

from dreadnode_api.console import job_form
from dreadnode_api.console.deps import Filter, MemberPage
from dreadnode_api.console.forms import texts
from dreadnode_api.console.job_actions import copied, new_key
from dreadnode_api.console.job_text import as_command, as_toml, code_files
from dreadnode_api.console.layout import redirect
from dreadnode_api.errors import ApiError
from dreadnode_api.http.deps import InDatabase, InSettings
from dreadnode_api.http.disconnect import while_connected
from dreadnode_api.http.patterns import SLUG
from dreadnode_api.jobs import service as jobs
from dreadnode_api.models.datasets import DatasetVersion
from dreadnode_api.training import preflight_report, service
from dreadnode_api.training.deps import InServices
from dreadnode_api.training.schemas import JobRequest, TrainerType
from dreadnode_api.versions import newest_versions

router = APIRouter()

DATASETS_OFFERED = 100
REWARDS = (
    *("exact_match_v1", "contains_v1", "gsm8k_v1", "math_v1", "row_reward_v1"),
    "trajectory_imitation_v1",
)
"""The recipes to offer; the field takes any."""


@router.get("/ws/{ws}/new-job")
async def new_job(
    page: MemberPage,
    database: InDatabase,
    settings: InSettings,
    kind: TrainerType | None = None,
    model: Filter = None,
    dataset: Filter = None,
    copy: Annotated[str | None, Query(max_length=36, pattern=SLUG)] = None,
) -> Response:
    """Show the form, filled in as another job if COPY names one."""
    values: dict[str, str] = {}
    if copy is not None:
        async with database.reading() as session:
            job = await jobs.get_job(session, page.scope.workspace_id, copy)
        values = job_form.values_of(copied(job))
    values["trainer_type"] = kind or values.get("trainer_type", "sft")
    ref = "prompt_dataset_ref" if values["trainer_type"] == "rl" else "dataset_ref"
    given = {"models" if values["trainer_type"] == "eval" else "model": model, ref: dataset}
    values |= {name: value for name, value in given.items() if value is not None}
    values.setdefault("key", new_key())
    return await _form(page, database, values, is_paid=settings.is_paid)


async def _form(
    page: MemberPage,
    database: InDatabase,
    values: Mapping[str, str],
    *,
    is_paid: bool,
    problem: ApiError | None = None,
) -> Response:
    async with database.reading() as session:
        offered = await _datasets(session, page.scope.org_id)
    kind = values["trainer_type"]
    kept = {
        "model": values.get("model"),
        "dataset": values.get("dataset_ref") or values.get("prompt_dataset_ref"),
    }
    return page.render(
        "new_job.html",
        status=200 if problem is None else problem.status,
        problem=problem,
        values=values,
        groups=job_form.fields(kind, values),
        kinds=[
            (name, label, page.url("new-job", kind=name, **kept))
            for name, label in job_form.KINDS.items()
        ],
        modes=job_form.MODES,
        models=[model for model in TINKER_MODELS if model.status == "active"],
        datasets=offered,
        rewards=REWARDS,
        is_paid=is_paid,
    )


async def _datasets(session: AsyncSession, org_id: str) -> list[str]:
    found, _ = await newest_versions(
        session,
        DatasetVersion,
        org_id,
        None,
        1,
        DATASETS_OFFERED,
        sort_by="created_at",
        descending=True,
    )
    return [f"{each.name}@{each.version}" for each in found]


@router.post("/ws/{ws}/new-job/check")
async def check(page: MemberPage, services: InServices) -> Response:
    """Show what the preflight finds, and the job as a command and as a file."""
    values = await texts(page.request)
    shown: dict[str, Any] = {"report": None, "command": None, "toml": None, "files": ()}
    if not job_form.is_described(values):
        return page.render("new_job_report.html", problem=None, is_empty=True, **shown)
    try:
        request = job_form.request_of(values)
        shown |= _described(request)
        found = await while_connected(
            page.request, preflight_report.report(page.scope, request, services=services)
        )
    except ApiError as error:
        return page.render("new_job_report.html", status=error.status, problem=error, **shown)
    return page.render("new_job_report.html", problem=None, **(shown | {"report": found}))


def _described(request: JobRequest) -> dict[str, Any]:
    """Return the job as a command, with the files of code that it names, and as a job file."""
    given = request.model_dump(mode="json", exclude_unset=True)
    return {"command": as_command(given), "files": code_files(given), "toml": as_toml(given)}


@router.post("/ws/{ws}/new-job")
async def submit(page: MemberPage, services: InServices) -> Response:
    """Submit the job and go to its page, or show the form again with what is wrong."""
    values = await texts(page.request)
    try:
        request = job_form.request_of(values)
        job, _ = await service.create_job(
            page.scope,
            request,
            _key(values.get("key", new_key()), request),
            services=services,
            while_connected=partial(while_connected, page.request),
        )
    except ApiError as error:
        known = values.get("trainer_type") in job_form.KINDS
        values |= {} if known else {"trainer_type": "sft"}
        paid = services.settings.is_paid
        return await _form(page, services.database, values, is_paid=paid, problem=error)
    return redirect(page.url(f"jobs/{job.id}"))


def _key(form: str, request: JobRequest) -> str:
    """Return the idempotency key of a form that was filled in for REQUEST.

    A form that is sent twice creates one job; one that was changed after it was sent, another.
    """
    text = form + request.model_dump_json(exclude_unset=True)
    return f"console-{hashlib.sha256(text.encode()).hexdigest()}"
