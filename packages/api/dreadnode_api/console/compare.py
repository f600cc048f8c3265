"""Jobs side by side: differing settings, results, cost, charts, and answers to the same prompt."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import APIRouter, Form, Query
from pydantic import Field
from sqlalchemy.ext.asyncio import AsyncSession
from starlette.responses import Response

from dreadnode_api.console.deps import Filter, MemberPage, ReaderPage, WorkspacePage
from dreadnode_api.console.settings_table import shown
from dreadnode_api.console.text import NONE
from dreadnode_api.errors import ApiError, Invalid
from dreadnode_api.http.deps import InDatabase, ReadSession
from dreadnode_api.http.disconnect import while_connected
from dreadnode_api.http.patterns import SLUG
from dreadnode_api.jobs import service as jobs
from dreadnode_api.models.jobs import Job
from dreadnode_api.pricing.ledger import cost_view
from dreadnode_api.serving.job_chat_routes import (
    MAX_TOKENS,
    ChatAnswer,
    ChatMessage,
    ChatRequest,
    answer,
)
from dreadnode_api.serving.service import models_of
from dreadnode_api.training.defaults import complete

router = APIRouter()

MOST = 6
OFFERED = 50
RESULTS = {
    "loss": ("Loss", min),
    "eval_loss": ("Evaluation loss", min),
    "reward": ("Reward", max),
    "eval_reward": ("Evaluation reward", max),
}
Id = Annotated[str, Field(max_length=64, pattern=SLUG)]
JobIds = Annotated[Sequence[Id], Field(max_length=20), Query()]
TOKENS = 256
"""How many tokens an answer has at most, if the form does not say."""


@dataclass(frozen=True, slots=True)
class Row:
    """A row of the comparison: a label, and a value for each job."""

    label: str
    values: Sequence[str]
    best: int | None = None


@dataclass(frozen=True, slots=True)
class Answer:
    """What a job answers to a prompt, or why it cannot."""

    job: Job
    found: ChatAnswer | None
    problem: str | None


@router.get("/ws/{ws}/compare")
async def compare(
    page: ReaderPage, session: ReadSession, job: JobIds = (), text: Filter = None
) -> Response:
    """Show two to six jobs side by side, or a list to choose them from."""
    ids = list(dict.fromkeys(job))
    chosen = await _jobs(page, session, ids)
    if len(chosen) > MOST:
        raise Invalid(f"Choose 2 to {MOST} jobs to compare, not {len(chosen)}", "query", "job")
    if len(chosen) < 2:
        found, total = await jobs.list_jobs(
            session, page.scope.workspace_id, {"text": text}, 1, OFFERED
        )
        listed = [each for each, _ in found if each.id not in ids]
        template = "compare_choice.html" if not page.is_fragment else "compare_jobs.html"
        return page.render(
            template, chosen=chosen, listed=listed, total=total, text=text, most=MOST
        )
    differing, equal = _settings(chosen)
    return page.render(
        "compare.html",
        jobs=chosen,
        differing=differing,
        equal=equal,
        results=_results(chosen),
        costs=[cost_view(each) for each in chosen],
        tokens=TOKENS,
        most_tokens=MAX_TOKENS,
    )


@router.post("/ws/{ws}/compare/answers")
async def answers(
    page: MemberPage,
    database: InDatabase,
    prompt: Annotated[str, Form(max_length=100_000)] = "",
    job: Annotated[Sequence[Id], Form(max_length=20)] = (),
    temperature: Annotated[float, Form(ge=0, le=10)] = 0.0,
    max_tokens: Annotated[int, Form(ge=1, le=MAX_TOKENS)] = TOKENS,
) -> Response:
    """Show what each job answers to one prompt."""
    if not prompt.strip():
        raise Invalid("Write a prompt", "body", "prompt")
    async with database.reading() as session:
        chosen = await _jobs(page, session, list(dict.fromkeys(job)))
    if not 1 <= len(chosen) <= MOST:
        raise Invalid(f"Choose 1 to {MOST} jobs, not {len(chosen)}", "body", "job")
    asked = ChatRequest.model_validate(
        {
            "messages": [ChatMessage(role="user", content=prompt)],
            "temperature": temperature,
            "max_tokens": max_tokens,
            "seed": 0,
        }
    )
    models = models_of(page.request, page.caller)

    async def one(of: Job) -> Answer:
        try:
            return Answer(of, await answer(page.scope, of.id, asked, models), None)
        except ApiError as error:
            return Answer(of, None, error.detail)

    async def every() -> list[Answer]:
        return await asyncio.gather(*map(one, chosen))

    return page.render("compare_answers.html", answers=await while_connected(page.request, every()))


async def _jobs(page: WorkspacePage, session: AsyncSession, ids: Sequence[str]) -> list[Job]:
    return [await jobs.get_job(session, page.scope.workspace_id, each) for each in ids]


def _settings(chosen: Sequence[Job]) -> tuple[list[Row], list[tuple[str, str]]]:
    """Return the settings that differ, and those that all the jobs have alike."""
    tables = [_table(each) for each in chosen]
    names = dict.fromkeys(name for table in tables for name in table)
    rows = [Row(name, [table.get(name, "not set") for table in tables]) for name in names]
    return (
        [row for row in rows if len(set(row.values)) > 1],
        [(row.label, row.values[0]) for row in rows if len(set(row.values)) == 1],
    )


def _table(job: Job) -> dict[str, str]:
    config = complete(job.trainer_type, job.config)
    about = {"model": job.model, "trainer_type": job.trainer_type, "rehearsal": job.rehearsal}
    return {name: shown(value) for name, value in {**about, **config}.items()}


def _results(chosen: Sequence[Job]) -> list[Row]:
    """Return the newest results of the jobs, with the best of each where several have it."""
    progress: list[Mapping[str, Any]] = [each.progress or {} for each in chosen]
    rows = []
    for name, (label, best) in RESULTS.items():
        values = [each.get(name) for each in progress]
        known = [value for value in values if value is not None]
        if known:
            winner = values.index(best(known)) if len(set(known)) > 1 else None
            texts = [NONE if value is None else f"{value:.4g}" for value in values]
            rows.append(Row(label, texts, winner))
    return rows
