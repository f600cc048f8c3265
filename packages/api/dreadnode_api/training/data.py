"""The data that a job reads: one split of each dataset, and where its file is."""

from dataclasses import dataclass, field
from typing import Any

from sqlalchemy.ext.asyncio import AsyncSession

from dreadnode_api.blob_store import BlobStore
from dreadnode_api.datasets import service as datasets
from dreadnode_api.errors import Invalid, NotFound
from dreadnode_api.training.refs import Ref
from dreadnode_api.training.schemas import EvalJobRequest, RlJobRequest, SftJobRequest

_TRAJECTORIES = ("trajectories", "trajectory_dataset_refs", "")
_EVAL = ("eval", "eval_dataset_ref", "eval_split")
FIELDS = {
    "sft": (("train", "dataset_ref", "split"), _TRAJECTORIES, _EVAL),
    "rl": (("train", "prompt_dataset_ref", "prompt_split"), _TRAJECTORIES, _EVAL),
    "eval": (("eval", "dataset_ref", "split"),),
}
"""The data of each kind of job: its role, and the settings that name the dataset and its split."""
TRAIN, EVAL = "train", "validation"
"""The splits that are used when a dataset has several and the job names none."""


@dataclass
class JobData:
    """The data that a job reads.

    Attributes:
        files: paths of the `train`, `eval` and `trajectories` files, for the check.
        splits: the settings that name splits, resolved.
        sources: every split with its digest, for the record of the job.
    """

    files: dict[str, Any] = field(default_factory=lambda: {"train": None, "eval": None})
    splits: dict[str, str] = field(default_factory=dict)
    sources: list[dict[str, Any]] = field(default_factory=list)


async def resolve_data(
    session: AsyncSession,
    org_id: str,
    request: SftJobRequest | RlJobRequest | EvalJobRequest,
    store: BlobStore,
) -> JobData:
    """Return the data that `request` refers to.

    Raises:
        Invalid: a dataset, its version or its split does not exist, or the dataset has several
            splits and the job does not say which one to evaluate on.
    """
    data = JobData()

    async def resolve(role: str, field: str, ref: Ref, split_field: str, split: str | None) -> str:
        loc = ("config", split_field if split is not None else field)
        try:
            version = await datasets.get_version(session, org_id, ref.name, ref.version)
            loc = ("config", split_field)
            found = datasets.split_of(version, split, EVAL if role == "eval" else TRAIN)
        except NotFound as error:
            raise Invalid(error.detail, *loc) from None
        if role != "trajectories":
            data.splits[split_field] = found.name
        data.sources.append(
            {
                "role": role,
                "name": ref.name,
                "version": ref.version,
                "split": found.name,
                "rows": found.rows,
                "sha256": found.content_sha256,
            }
        )
        return str(store.path(found.content_sha256))

    for role, setting, split_setting in FIELDS[request.trainer_type]:
        named = getattr(request.config, setting)
        if role == "trajectories":
            data.files[role] = [await resolve(role, setting, ref, setting, None) for ref in named]
        elif named is not None:
            split = getattr(request.config, split_setting)
            data.files[role] = await resolve(role, setting, named, split_setting, split)
    return data
