"""Which data a job reads: each dataset that it names, one split of it, and where that is kept."""

from dataclasses import dataclass, field
from typing import Any

from sqlalchemy.ext.asyncio import AsyncSession

from dreadnode_api.blob_store import BlobStore
from dreadnode_api.datasets import service as datasets
from dreadnode_api.errors import Invalid, NotFound
from dreadnode_api.training.refs import Ref
from dreadnode_api.training.schemas import RlJobRequest, SftJobRequest

TRAIN, EVAL = "train", "validation"
"""The splits that are read of a dataset that has several, unless the job names another."""


@dataclass
class Data:
    """What a job reads.

    Attributes:
        files: Paths of the `train`, the `eval` and the `trajectories` files, for the check.
        splits: Settings that name the splits, as they are resolved.
        read: What is read, with its digest, for the job's record.
    """

    files: dict[str, Any] = field(default_factory=lambda: {"train": None, "eval": None})
    splits: dict[str, str] = field(default_factory=dict)
    read: list[dict[str, Any]] = field(default_factory=list)


async def named(
    session: AsyncSession, org_id: str, request: SftJobRequest | RlJobRequest, store: BlobStore
) -> Data:
    """Return the data that `request` names.

    Raises:
        Invalid: a dataset, its version or its split does not exist, or it has several splits and
            the job does not say which to evaluate on.
    """
    config, data = request.config, Data()

    async def path(role: str, field: str, ref: Ref, split_field: str, split: str | None) -> str:
        place = ("config", split_field if split is not None else field)
        try:
            found = await datasets.get_version(session, org_id, ref.name, ref.version)
            place = ("config", split_field)
            chosen = datasets.split_of(found, split, EVAL if role == "eval" else TRAIN)
        except NotFound as error:
            raise Invalid(error.detail, *place) from None
        if role != "trajectories":
            data.splits[split_field] = chosen.name
        data.read.append(
            {
                "role": role,
                "name": ref.name,
                "version": ref.version,
                "split": chosen.name,
                "rows": chosen.rows,
                "sha256": chosen.content_sha256,
            }
        )
        return str(store.path(chosen.content_sha256))

    if isinstance(request, SftJobRequest):
        train_field, train = "dataset_ref", request.config.dataset_ref
        split_field, split = "split", request.config.split
    else:
        train_field, train = "prompt_dataset_ref", request.config.prompt_dataset_ref
        split_field, split = "prompt_split", request.config.prompt_split
        field_ = "trajectory_dataset_refs"
        data.files["trajectories"] = [
            await path("trajectories", field_, ref, field_, None)
            for ref in request.config.trajectory_dataset_refs
        ]
    if train is not None:
        data.files["train"] = await path("train", train_field, train, split_field, split)
    if config.eval_dataset_ref is not None:
        data.files["eval"] = await path(
            "eval", "eval_dataset_ref", config.eval_dataset_ref, "eval_split", config.eval_split
        )
    return data
