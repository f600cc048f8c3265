"""The result of an evaluation, which its sandbox stores as a file of the job."""

import json
from typing import Literal

from anyio import to_thread
from pydantic import Field, ValidationError
from sqlalchemy import delete, select
from sqlalchemy.ext.asyncio import AsyncSession

from dreadnode_api.blob_store import BlobStore
from dreadnode_api.db import Database
from dreadnode_api.errors import Conflict, NotFound
from dreadnode_api.http.schemas import Response
from dreadnode_api.jobs.service import get_job
from dreadnode_api.models.jobs import ENDED, Job, JobFile

FILE = "evaluation/result.json"
MAX_BYTES = 16 * 1024 * 1024
"""A result is far smaller. A sandbox may upload larger files, and reading one blocks the server."""
PARTS = "evaluation/parts/"
"""The folder of the finished rows, from which another attempt or a retry continues."""

Metric = Literal["loss", "reward"]


class EvaluationFigure(Response):
    """A mean or a difference over rows, with its confidence interval."""

    value: float
    low: float | None = Field(description="Lower end; null with a single row")
    high: float | None
    rows: int = Field(description="Number of rows")
    method: str = Field(
        description="`student_t`, `student_t_of_ratio`, `wilson` or "
        "`student_t_of_paired_differences`"
    )


class EvaluatedModelView(Response):
    """One model of an evaluation and its figures."""

    name: str = Field(description="What the request calls it")
    model: str = Field(description="Catalog id")
    base_model: str = Field(description="The base model on the engine; in a rehearsal, a stand-in")
    rehearsal: bool
    checkpoint: str | None = Field(description="Path of the weights; null for a base model")
    job_id: str | None
    step: int | None = Field(description="Optimizer steps of the weights")
    renderer: str = Field(description="Name of the chat format")
    rows: int = Field(description="Number of rows with a result")
    loss: EvaluationFigure | None = Field(description="Loss per token of the rows' answers")
    loss_tokens: int
    reward: EvaluationFigure | None = Field(description="Mean reward of the rows")
    completions: int
    truncated: int = Field(description="Completions that were cut at the token limit")
    unfinished: int = Field(description="Completions whose reasoning never ended; not scored")
    reward_errors: int = Field(description="Completions on which the user's own reward failed")
    sampled_tokens: int


class ChangedRow(Response):
    """A row whose value differs much between two models."""

    row: int
    baseline: float
    value: float
    question: str | None = Field(description="The last message before the completion")
    baseline_completion: str | None
    completion: str | None


class ModelComparison(Response):
    """The comparison of a model with the first one, on the rows that both have."""

    model: int = Field(description="Number of the model in `models`, from 0")
    baseline: int
    metric: Metric
    difference: EvaluationFigure = Field(description="The model's value minus the baseline's")
    wins: int = Field(description="Rows on which the model is better")
    ties: int
    losses: int
    changed: list[ChangedRow] = Field(description="The rows that differ most")


class EvaluationResult(Response):
    """The result of an evaluation."""

    job_id: str
    dataset: str
    split: str | None
    rows: int = Field(description="Number of rows that every model was to be evaluated on")
    confidence: float = Field(description="Confidence of the intervals")
    models: list[EvaluatedModelView]
    comparisons: list[ModelComparison]


async def evaluation_result(
    database: Database, store: BlobStore, workspace_id: str, job_id: str
) -> EvaluationResult:
    """Return the result of an evaluation.

    Raises:
        NotFound: there is no such job, or it is not an evaluation or has no result.
        Conflict: it has not ended.
    """
    async with database.reading() as session:
        job = await get_job(session, workspace_id, job_id)
        found = await session.get(JobFile, (job.id, FILE))
    if job.trainer_type != "eval":
        raise NotFound(f"The job `{job_id}` is not an evaluation")
    if job.status not in ENDED:
        raise Conflict(f"The evaluation `{job_id}` is {job.status}; its result comes at its end")
    if found is None:
        raise NotFound(f"The evaluation `{job_id}` is {job.status} and has no result")
    unreadable = NotFound(f"The result of the evaluation `{job_id}` cannot be read")
    if found.bytes > MAX_BYTES:
        raise unreadable
    content = await to_thread.run_sync(store.path(found.sha256).read_bytes)
    try:
        return EvaluationResult.model_validate({**json.loads(content), "job_id": job.id})
    except (ValueError, TypeError, RecursionError, ValidationError):
        raise unreadable from None


async def delete_parts(session: AsyncSession, job_id: str) -> None:
    """Delete the parts of an evaluation that is complete; its rows are in one file now."""
    await session.execute(
        delete(JobFile).where(JobFile.job_id == job_id, JobFile.path.startswith(PARTS))
    )


async def keep_results(session: AsyncSession, old: Job, retry: Job) -> None:
    """Give a retry the finished rows of the evaluation that it retries."""
    parts = await session.scalars(
        select(JobFile).where(JobFile.job_id == old.id, JobFile.path.startswith(PARTS))
    )
    for part in parts.all():
        session.add(JobFile(job_id=retry.id, path=part.path, bytes=part.bytes, sha256=part.sha256))
