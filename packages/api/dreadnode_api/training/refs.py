"""References in a job request to datasets and capabilities, by name and version."""

from typing import Annotated, Any

from pydantic import Field

from dreadnode_api.http.patterns import NAME, SPLIT, VERSION
from dreadnode_api.http.schemas import Request


class Ref(Request):
    """A dataset or a capability, by name and version."""

    name: str = Field(pattern=NAME)
    version: str = Field(pattern=VERSION)

    def __str__(self) -> str:
        return f"{self.name}@{self.version}"


SplitName = Annotated[str, Field(pattern=SPLIT)]
"""The name of a split of a dataset."""


def evaluated(config: Any, trained_on: str) -> Any:
    """Return the raw CONFIG with `eval_dataset_ref` filled in if it has only `eval_split`.

    An evaluation split without a dataset belongs to the dataset in the field TRAINED_ON.
    """
    if not isinstance(config, dict) or config.get("eval_split") is None:
        return config
    if config.get("eval_dataset_ref") is not None:
        return config
    if config.get(trained_on) is None:
        raise ValueError(
            f"`eval_split` has no effect without `eval_dataset_ref` or `{trained_on}`; set one"
        )
    return {**config, "eval_dataset_ref": config[trained_on]}
