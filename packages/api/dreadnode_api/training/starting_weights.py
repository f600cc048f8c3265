"""The weights that a job starts from in place of a new adapter: its setting `from_adapter`.

| form | weights |
| --- | --- |
| id or name of a job | its newest checkpoint |
| `JOB@best`, `JOB@step-000100` | that checkpoint of the job |
| `tinker://…` | that checkpoint of a job of the organization, or an uploaded adapter |
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, TypeVar

from sqlalchemy.ext.asyncio import AsyncSession

from dreadnode_api.auth.callers import Caller
from dreadnode_api.checkpoints import records
from dreadnode_api.checkpoints.choice import choose_checkpoint
from dreadnode_api.checkpoints.targets import PATH, find_by_path, find_job
from dreadnode_api.errors import Conflict, Invalid, NotFound
from dreadnode_api.models.adapters import UploadedAdapter
from dreadnode_api.models.base import now
from dreadnode_api.models.checkpoints import Checkpoint, State
from dreadnode_api.models.jobs import Job
from dreadnode_api.training.config_schemas import TrainConfig
from dreadnode_api.training.defaults import complete

SETTING = "from_adapter"
ARTIFACT = "from_adapter"
"""The artifact of a job that names the weights it starts from."""
SHAPE = ("lora_rank", "train_mlp", "train_attn", "train_unembed")
"""Settings that the weights decide."""
LOC = ("config", SETTING)
Config = TypeVar("Config", bound=TrainConfig)


@dataclass(frozen=True, slots=True)
class StartingWeights:
    """Weights on the engine.

    Attributes:
        lineage: The subject of the engine's key that opens them.
        base_model: The model that they are for, as the engine names it.
        job_id: The job that trained them; None for an uploaded adapter.
    """

    path: str
    lineage: str
    base_model: str
    lora_rank: int
    train_mlp: bool
    train_attn: bool
    train_unembed: bool
    job_id: str | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the artifact."""
        return asdict(self)


async def find_starting_weights(
    session: AsyncSession, caller: Caller, name: str
) -> StartingWeights:
    """Return the weights that NAME means for CALLER.

    Raises:
        Invalid: there are none, or they cannot be trained.
    """
    try:
        if name.startswith(PATH):
            found = await session.get(UploadedAdapter, name)
            if found is not None and found.org_id == caller.org_id:
                return _uploaded(found)
            job, weights = await find_by_path(session, caller, name)
            if weights.kind != "training":
                raise Invalid("it can only be sampled from; name one with `/weights/`")  # noqa: TRY301
        else:
            handle, _, checkpoint = name.partition("@")
            job = await find_job(session, caller, handle)
            saved = await records.job_checkpoints(session, job.id)
            weights = choose_checkpoint(job, saved, checkpoint or None, trainable=True)
    except (NotFound, Conflict, Invalid) as refusal:
        raise Invalid(f"No job can start from `{name[:300]}`: {refusal.detail}", *LOC) from None
    if job.trainer_type == "eval":
        raise Invalid(f"`{name[:300]}` is an evaluation, which trains nothing", *LOC)
    config = complete(job.trainer_type, job.config)
    return StartingWeights(
        path=weights.path,
        lineage=job.lineage,
        base_model=job.trained_model,
        job_id=job.id,
        **{setting: config[setting] for setting in SHAPE},
    )


def _uploaded(found: UploadedAdapter) -> StartingWeights:
    if found.expires_at <= now():
        raise Conflict("this uploaded adapter has expired; upload it again")
    same = ("path", "lineage", "base_model", "train_mlp", "train_attn", "train_unembed")
    return StartingWeights(lora_rank=found.rank, **{name: getattr(found, name) for name in same})


def with_shape(config: Config, weights: StartingWeights) -> Config:
    """Return CONFIG with the rank and the layers of WEIGHTS, and with their path.

    Raises:
        Invalid: it sets another rank or other layers.
    """
    update: dict[str, Any] = {SETTING: weights.path}
    for setting in SHAPE:
        given, own = getattr(config, setting), getattr(weights, setting)
        if setting in config.model_fields_set and given is not None and given != own:
            raise Invalid(
                f"`{setting}` is {_text(given)}, and the adapter of `{SETTING}` has {_text(own)}; "
                f"leave `{setting}` out",
                "config",
                setting,
            )
        update[setting] = own
    return config.model_copy(update=update)


def check_base(weights: StartingWeights, trained_model: str) -> None:
    """Return if WEIGHTS are for TRAINED_MODEL.

    Raises:
        Invalid: they are for another model.
    """
    if weights.base_model != trained_model:
        raise Invalid(
            f"The weights of `{SETTING}` are for `{weights.base_model}`, and this job trains "
            f"`{trained_model}`; choose that model, or other weights",
            *LOC,
        )


async def still_available(session: AsyncSession, job: Job) -> None:
    """Return if the weights that JOB starts from are still on the engine.

    Raises:
        Conflict: they have expired or were deleted.
    """
    start: Mapping[str, Any] | None = job.artifacts.get(ARTIFACT)
    if start is None:
        return
    if start["job_id"] is None:
        uploaded = await session.get(UploadedAdapter, start["path"])
        available = uploaded is not None and uploaded.expires_at > now()
    else:
        row = await session.get(Checkpoint, (start["job_id"], start["path"]))
        available = row is not None and row.state == State.READY
    if not available:
        raise Conflict(
            f"The weights that the job `{job.id}` starts from, `{start['path']}`, have expired or "
            "were deleted; create a new job with other weights"
        )


def _text(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
