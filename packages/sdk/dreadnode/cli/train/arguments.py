"""The flags that describe a job, shared by the commands that submit, check and price one."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from cyclopts import Parameter

from dreadnode.cli.completion import model_ids
from dreadnode.cli.context import Common
from dreadnode.cli.data.dataset import upload
from dreadnode.cli.output import say
from dreadnode.cli.train import rl_flags, sft_flags
from dreadnode.cli.train.flags import RehearseFirst, RehearseSteps, flags_named, given
from dreadnode.errors import InputError
from dreadnode.lazy_types import jobs, rl, wire
from dreadnode.recipes import python_recipe, read_text, reward_recipe

if TYPE_CHECKING:
    from dreadnode.http.sync_api.client import ApiClient

Rehearse = Annotated[
    bool, Parameter(help="Train a small stand-in model instead: same data, config and loop.")
]
Model = Annotated[str, Parameter(help="Base model: see `dn train catalog`.", completer=model_ids)]
Name = Annotated[str | None, Parameter(help="Name of the job.")]
Tags = Annotated[tuple[str, ...], Parameter(help="Tag of the job. May be repeated.")]
Capability = Annotated[
    str | None, Parameter(help="NAME@VERSION of the capability with the system prompt.")
]
Yes = Annotated[
    bool, Parameter(name="--yes", help="Start a job that costs money without a question.")
]


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class SftJob:
    """The flags of a supervised job: `flags` are the settings of its config."""

    model: Model
    dataset: Annotated[
        str | None,
        Parameter(
            help="Training dataset: NAME@VERSION, or a file or a folder of splits, which is "
            "uploaded first."
        ),
    ] = None
    trajectory_dataset: Annotated[
        tuple[str, ...],
        Parameter(help="Trajectories to train on as well, as `--dataset`. May be repeated."),
    ] = ()
    rehearse: Rehearse = False
    rehearse_first: RehearseFirst = False
    rehearse_steps: RehearseSteps = None
    name: Name = None
    tag: Tags = ()
    eval_dataset: Annotated[str | None, Parameter(help="Evaluation dataset, as `--dataset`.")] = (
        None
    )
    capability: Capability = None
    flags: sft_flags.SftFlags = sft_flags.NO_FLAGS
    names: ClassVar = sft_flags.FLAG_NAMES

    def request(self, client: ApiClient) -> jobs.SftRequest:
        """Return the request for the job, after the upload of data that is named by a path.

        Raises:
            InputError: There is no data, or a setting is out of bounds.
        """
        from dreadnode.http.references import capability_ref

        settings = self.settings()
        config = jobs.SftConfig(
            dataset_ref=dataset_ref(client, self.dataset) if self.dataset else None,
            trajectory_dataset_refs=dataset_refs(client, self.trajectory_dataset),
            eval_dataset_ref=dataset_ref(client, self.eval_dataset) if self.eval_dataset else None,
            **settings,
        )
        return jobs.SftRequest(
            model=self.model,
            config=config,
            capability_ref=capability_ref(self.capability),
            name=self.name,
            tags=self.tag,
            rehearse=self.rehearse,
            rehearse_first=self.rehearse_first,
            rehearse_steps=self.rehearse_steps,
        )

    def settings(self) -> dict[str, Any]:
        """Return the settings of the config that the flags give, before anything is sent."""
        if self.dataset is None and not self.trajectory_dataset:
            raise InputError("name the training dataset with `--dataset` or `--trajectory-dataset`")
        return given(self.flags, jobs.SftConfig, self.names)


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class RlJob:
    """The flags of a reinforcement-learning job: `flags` are the settings of its config."""

    model: Model
    algorithm: Annotated[
        Literal["importance_sampling", "ppo"], Parameter(help="Policy loss.", show_default=True)
    ] = "importance_sampling"
    prompt_dataset: Annotated[
        str | None,
        Parameter(
            help="Dataset of prompts: NAME@VERSION, or a file or a folder, which is uploaded first."
        ),
    ] = None
    trajectory_dataset: Annotated[
        tuple[str, ...],
        Parameter(help="Trajectories; each assistant turn becomes a prompt. May be repeated."),
    ] = ()
    reward_recipe: Annotated[
        str | None,
        Parameter(
            help="Reward recipe that scores a completion, or a .py file with a function `reward`."
        ),
    ] = None
    reward_params: Annotated[
        str | None, Parameter(help="The recipe's parameters: JSON, or a .json file.")
    ] = None
    environment: Annotated[
        Path | None,
        Parameter(help="A .py file with tools for rollouts of several turns."),
    ] = None
    rehearse: Rehearse = False
    rehearse_first: RehearseFirst = False
    rehearse_steps: RehearseSteps = None
    name: Name = None
    tag: Tags = ()
    eval_dataset: Annotated[
        str | None, Parameter(help="Prompts to evaluate on, as `--prompt-dataset`.")
    ] = None
    capability: Capability = None
    flags: rl_flags.RlFlags = rl_flags.NO_FLAGS
    names: ClassVar = rl_flags.FLAG_NAMES

    def request(self, client: ApiClient) -> rl.RlRequest:
        """Return the request for the job, after the upload of data that is named by a path.

        Raises:
            InputError: There is no data, or a setting or the reward cannot be used.
        """
        from dreadnode.http.references import capability_ref

        settings = self.settings()
        recipe = reward(self.reward_recipe, self.reward_params)
        prompts, evaluation = self.prompt_dataset, self.eval_dataset
        config = rl.RlConfig(
            algorithm=self.algorithm,
            environment=None if self.environment is None else python_recipe(self.environment),
            prompt_dataset_ref=dataset_ref(client, prompts) if prompts else None,
            trajectory_dataset_refs=dataset_refs(client, self.trajectory_dataset),
            eval_dataset_ref=dataset_ref(client, evaluation) if evaluation else None,
            reward_recipe=recipe,
            **settings,
        )
        return rl.RlRequest(
            model=self.model,
            config=config,
            capability_ref=capability_ref(self.capability),
            name=self.name,
            tags=self.tag,
            rehearse=self.rehearse,
            rehearse_first=self.rehearse_first,
            rehearse_steps=self.rehearse_steps,
        )

    def settings(self) -> dict[str, Any]:
        """Return the settings of the config that the flags give, before anything is sent."""
        if self.prompt_dataset is None and not self.trajectory_dataset:
            raise InputError(
                "name the dataset of prompts with `--prompt-dataset` or `--trajectory-dataset`"
            )
        return given(self.flags, rl.RlConfig, self.names)


@contextmanager
def requested(
    job: SftJob | RlJob, common: Common
) -> Iterator[tuple[ApiClient, jobs.SftRequest | rl.RlRequest]]:
    """Yield a client and the request for JOB; a refusal inside names the flag at fault.

    Args:
        job: The flags of the job.
        common: Which server.

    Raises:
        InputError: A setting is out of bounds; nothing was sent.
    """
    job.settings()
    with common.client() as client:
        request = with_starting_weights(client, job.request(client))
        with flags_named(job.names):
            yield client, request


def with_starting_weights(
    client: ApiClient, request: jobs.SftRequest | rl.RlRequest
) -> jobs.SftRequest | rl.RlRequest:
    """Return REQUEST with what its job starts from as the server takes it; a folder is uploaded."""
    from dreadnode.http.adapter_files import local_adapter
    from dreadnode.http.sync_api.training import REHEARSED

    start = request.config.from_adapter
    if start is None:
        return request
    folder = local_adapter(start)
    if folder is None:
        start = client.resolve_model(start)
    elif request.rehearse:
        say(REHEARSED.format(folder))
        start = None
    else:
        stored = client.upload_adapter(folder, request.model)
        layers = ", ".join(f"`{each}`" for each in stored.new_layers)
        say(f"uploaded {folder} as {stored.path}, of rank {stored.lora_rank}")
        say(*([f"{layers} are new: the adapter has no weights for them"] if layers else ()))
        start = stored.path
    config = request.config.model_copy(update={"from_adapter": start})
    return request.model_copy(update={"config": config})


def dataset_ref(client: ApiClient, dataset: str) -> wire.DatasetRef:
    """Return the reference of DATASET; a file or a folder is uploaded first."""
    from dreadnode.http import references

    path = references.local_path(dataset)
    return references.dataset_ref(dataset) if path is None else upload(client, path).ref


def dataset_refs(
    client: ApiClient, datasets: tuple[str, ...]
) -> tuple[wire.DatasetRef, ...] | None:
    """Return the references of DATASETS; None if there are none."""
    return tuple(dataset_ref(client, each) for each in datasets) or None


def reward(recipe: str | None, params: str | None) -> rl.Recipe | None:
    """Return the reward recipe of the flags, if they name one.

    Raises:
        InputError: There are parameters without a recipe, or they are not a JSON object.
    """
    if recipe is not None:
        return reward_recipe(recipe, _params(params))
    if params is not None:
        raise InputError("`--reward-params` has no effect without `--reward-recipe`; give both")
    return None


def _params(text: str | None) -> dict[str, Any]:
    if text is None:
        return {}
    if text.endswith(".json"):
        text = read_text(Path(text))
    try:
        params = json.loads(text)
    except ValueError as error:
        raise InputError(f"`--reward-params` is not JSON: {error}") from None
    if not isinstance(params, dict):
        raise InputError('`--reward-params` must be a JSON object, as in \'{"needle": "yes"}\'')
    return params
