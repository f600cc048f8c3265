"""How a wish for a job names what was pushed before."""

from typing import Annotated, Any

from pydantic import Field

from dreadnode_api.http.patterns import NAME, SPLIT, VERSION
from dreadnode_api.http.schemas import Request


class Ref(Request):
    """Something that was pushed, by name and version."""

    name: str = Field(pattern=NAME)
    version: str = Field(pattern=VERSION)

    def __str__(self) -> str:
        return f"{self.name}@{self.version}"


SplitName = Annotated[str, Field(pattern=SPLIT)]
"""One of the splits that a dataset has."""


def evaluated(config: Any, trained_on: str) -> Any:
    """Return CONFIG, as it arrives, with `eval_dataset_ref` where only a split of it is named.

    A split to evaluate on, without a dataset, is one of the dataset in TRAINED_ON.
    """
    if not isinstance(config, dict) or config.get("eval_split") is None:
        return config
    if config.get("eval_dataset_ref") is not None:
        return config
    if config.get(trained_on) is None:
        raise ValueError(
            f"`eval_split` has no effect without `eval_dataset_ref` or `{trained_on}`; give both"
        )
    return {**config, "eval_dataset_ref": config[trained_on]}
