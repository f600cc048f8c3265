"""The weights that the field `model` of a request names.

| form | weights |
| --- | --- |
| `Qwen/Qwen3-8B` | the base model, as this server's engine holds it |
| id or name of a job | its newest checkpoint |
| `JOB@best`, `JOB@step-000100` | that checkpoint of the job |
| `tinker://…` | that checkpoint, of a job of the organization |
| `BASE;tinker://…` | the same, if it was trained on BASE |
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

from app.training.catalog import get_training_model
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from dreadnode_api.auth.callers import Caller
from dreadnode_api.catalog.unknown import unknown_model
from dreadnode_api.checkpoints import records
from dreadnode_api.checkpoints.choice import choose_checkpoint, weights_info
from dreadnode_api.engine_client import Capabilities, EngineModel
from dreadnode_api.errors import Conflict, NotFound
from dreadnode_api.models.checkpoints import Checkpoint
from dreadnode_api.models.jobs import Job

PATH = "tinker://"
BASE_MODELS = "base-models"
"""The subject of the engine's keys for base models, which belong to nobody."""


@dataclass(frozen=True, slots=True)
class Target:
    """Weights to serve.

    Attributes:
        org_id: The organization that asks; on the engine itself, the owner of its key.
        lineage: The subject of the engine's key that opens them; the master key if it is empty.
        opening: The first line that the serving process reads.
        weights: The fields of `WeightsInfo`, for the weights of a job.
    """

    org_id: str
    lineage: str
    opening: Mapping[str, Any]
    weights: Mapping[str, Any] | None = None

    @property
    def key(self) -> tuple[str, str]:
        """What one process serves: the same weights for one organization."""
        return self.org_id, str(self.opening["checkpoint"] or self.opening["base_model"])


async def find_target(
    session: AsyncSession, caller: Caller, engine: Capabilities, model: str
) -> Target:
    """Return the weights that MODEL names for CALLER.

    Raises:
        NotFound: there is no such model, job or checkpoint in the organization.
        Conflict: the weights exist and cannot be served now.
        Invalid: the job has no checkpoint of this name.
    """
    base, path = checkpoint_path(model)
    if path is not None:
        job, weights = await find_by_path(session, caller, path)
        check_trained_on(base, path, job.trained_model, job.model)
        return job_target(caller, engine, job, weights)
    if model in engine.models:
        return engine_target(caller.org_id, BASE_MODELS, engine.models[model])
    name, _, checkpoint = model.partition("@")
    job = await find_job(session, caller, name)
    saved = await records.job_checkpoints(session, job.id)
    return job_target(caller, engine, job, choose_checkpoint(job, saved, checkpoint or None))


def checkpoint_path(model: str) -> tuple[str | None, str | None]:
    """Return the base model and the path that MODEL names; None for each that it does not."""
    base, separator, path = model.rpartition(";")
    if not path.startswith(PATH):
        return None, None
    return (base if separator else None), path


def check_trained_on(base: str | None, path: str, *models: str) -> None:
    """Return if the checkpoint at PATH was trained on BASE, which one of MODELS is.

    Raises:
        NotFound: BASE is another model.
    """
    if base is not None and base not in models:
        raise NotFound(f"The checkpoint `{path[:200]}` was not trained on `{base[:200]}`")


def job_target(caller: Caller, engine: Capabilities, job: Job, weights: Checkpoint) -> Target:
    """Return WEIGHTS of JOB.

    Raises:
        Conflict: the engine does not hold the base model any more.
    """
    served, model = engine.models.get(job.trained_model), get_training_model(job.model)
    if served is None or served.sampleable is False or model is None:
        raise Conflict(
            f"This server's engine cannot sample from `{job.trained_model}` any more; start it "
            "with that model's weights"
        )
    opening = {
        **_opening(served, model.context_length),
        "model": job.model,
        "rehearsal": job.rehearsal,
        "tokenizer": served.tokenizer_id or model.tokenizer_id,
        "chosen_tokenizer": job.config.get("tokenizer"),
        "checkpoint": weights.path,
        "system_prompt": job.config.get("system_prompt"),
        "renderer": (job.preflight or {}).get("renderer"),
    }
    return Target(caller.org_id, job.lineage, opening, weights_info(job, weights))


def engine_target(
    owner: str, lineage: str, served: EngineModel, checkpoint: str | None = None
) -> Target:
    """Return CHECKPOINT, or the base model SERVED itself, in the model's default chat format.

    OWNER and LINEAGE are those of the target.

    Raises:
        Conflict: this server does not know how to prompt the model.
    """
    model = get_training_model(served.model_name)
    if served.sampleable is False or not (served.stand_in or model):
        raise Conflict(f"This server cannot sample from `{served.model_name}`")
    opening = {
        **_opening(served, model.context_length if model else None),
        "model": served.model_name,
        "rehearsal": served.stand_in,
        "tokenizer": served.tokenizer_id or (model.tokenizer_id if model else None),
        "checkpoint": checkpoint,
    }
    return Target(owner, lineage, opening)


def _opening(served: EngineModel, context: int | None) -> dict[str, Any]:
    limits = [limit for limit in (context, served.max_context_length) if limit is not None]
    return {
        "base_model": served.model_name,
        "context": min(limits, default=4096),
        "streams": served.streams,
    }


async def find_by_path(session: AsyncSession, caller: Caller, path: str) -> tuple[Job, Checkpoint]:
    """Return the checkpoint at PATH, of a job of the caller's organization.

    Raises:
        NotFound: there is none.
        Conflict: it has expired.
    """
    statement = (
        select(Job, Checkpoint)
        .join(Checkpoint, Checkpoint.job_id == Job.id)
        .where(Job.org_id == caller.org_id, Checkpoint.path == path)
        .order_by(Job.id)
        .limit(1)
    )
    row = (await session.execute(statement)).one_or_none()
    if row is None:
        raise NotFound(f"Your organization has no checkpoint `{path[:200]}`")
    job, weights = row
    return job, choose_checkpoint(job, [weights], path)


async def find_job(session: AsyncSession, caller: Caller, name: str) -> Job:
    """Return the job of the caller's organization with the id or the name NAME.

    Raises:
        NotFound: there is none.
        Conflict: there are several.
    """
    job = await session.get(Job, name) if len(name) <= 36 else None
    if job is not None and job.org_id == caller.org_id:
        return job
    statement = select(Job).where(Job.org_id == caller.org_id, Job.name == name)
    named = (await session.scalars(statement.order_by(Job.id.desc()).limit(2))).all()
    if len(named) > 1:
        raise Conflict(f"Several jobs are called `{name}`; use the id of one of them")
    if named:
        return named[0]
    if "/" in name:
        raise unknown_base(name)
    raise NotFound(f"There is no model and no job `{name[:200]}`; see `GET /v1/models`")


def unknown_base(name: str, served: Collection[str] = ()) -> NotFound:
    """Return the error for a base model NAME that is not among those SERVED by the engine."""
    if near := get_close_matches(name, served, n=1, cutoff=0.85):
        return NotFound(f"This engine does not hold `{name[:200]}`. Did you mean `{near[0]}`?")
    if get_training_model(name) is None:
        return NotFound(unknown_model(name).replace("\n", " "))
    return NotFound(f"This server's engine does not hold `{name}`; see `GET /v1/models`")
