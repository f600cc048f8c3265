"""`dn train rl`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter

from dreadnode.cli.completion import model_ids
from dreadnode.cli.context import DEFAULT, Common
from dreadnode.cli.train.flags import flags_named, given
from dreadnode.cli.train.rl_flags import FLAG_NAMES, NO_FLAGS, RlFlags
from dreadnode.cli.train.sft import dataset_ref, dataset_refs, submitted
from dreadnode.errors import InputError

if TYPE_CHECKING:
    from dreadnode.training.rl import Recipe


def rl(
    *,
    model: Annotated[
        str, Parameter(help="Base model: see `dn train catalog`.", completer=model_ids)
    ],
    algorithm: Annotated[
        Literal["importance_sampling", "ppo"], Parameter(help="Policy loss.", show_default=True)
    ] = "importance_sampling",
    prompt_dataset: Annotated[
        str | None,
        Parameter(
            help="Dataset of prompts: NAME@VERSION, or a file or a folder, which is uploaded first."
        ),
    ] = None,
    trajectory_dataset: Annotated[
        tuple[str, ...],
        Parameter(help="Trajectories; each assistant turn becomes a prompt. May be repeated."),
    ] = (),
    reward_recipe: Annotated[
        str | None,
        Parameter(
            help="Reward recipe that scores a completion, or a .py file with a function `reward`."
        ),
    ] = None,
    reward_params: Annotated[
        str | None, Parameter(help="The recipe's parameters: JSON, or a .json file.")
    ] = None,
    environment: Annotated[
        Path | None,
        Parameter(help="A .py file with tools for rollouts of several turns."),
    ] = None,
    rehearse: Annotated[
        bool,
        Parameter(help="Train a small stand-in model instead: same data, config and loop."),
    ] = False,
    wait: Annotated[bool, Parameter(help="Wait for the end of the job and show progress.")] = False,
    name: Annotated[str | None, Parameter(help="Name of the job.")] = None,
    tag: Annotated[tuple[str, ...], Parameter(help="Tag of the job. May be repeated.")] = (),
    eval_dataset: Annotated[
        str | None, Parameter(help="Prompts to evaluate on, as `--prompt-dataset`.")
    ] = None,
    capability: Annotated[
        str | None, Parameter(help="NAME@VERSION of the capability with the system prompt.")
    ] = None,
    flags: RlFlags = NO_FLAGS,
    common: Common = DEFAULT,
) -> None:
    """Submit a reinforcement-learning job.

    The model samples several completions for each prompt, a reward scores them, and the model
    learns from the scores. The reward is tried on the first rows before the job is accepted.
    """
    from dreadnode.http.references import capability_ref
    from dreadnode.recipes import python_recipe
    from dreadnode.training.rl import RlConfig, RlRequest

    if prompt_dataset is None and not trajectory_dataset:
        raise InputError(
            "name the dataset of prompts with `--prompt-dataset` or `--trajectory-dataset`"
        )
    settings = given(flags, RlConfig, FLAG_NAMES)
    reward = _reward(reward_recipe, reward_params)
    tools = None if environment is None else python_recipe(environment)
    with common.client() as client:
        config = RlConfig(
            algorithm=algorithm,
            prompt_dataset_ref=dataset_ref(client, prompt_dataset) if prompt_dataset else None,
            trajectory_dataset_refs=dataset_refs(client, trajectory_dataset),
            eval_dataset_ref=dataset_ref(client, eval_dataset) if eval_dataset else None,
            reward_recipe=reward,
            environment=tools,
            **settings,
        )
        with flags_named(FLAG_NAMES):
            job = client.create_training_job(
                RlRequest(
                    model=model,
                    config=config,
                    capability_ref=capability_ref(capability),
                    name=name,
                    tags=tag,
                    rehearse=rehearse,
                )
            )
        submitted(client, job, common, wait=wait)


def _reward(recipe: str | None, params: str | None) -> Recipe | None:
    """Return the reward recipe of the flags, if they name one.

    Raises:
        InputError: There are parameters without a recipe, or they are not a JSON object.
    """
    from dreadnode.recipes import reward_recipe

    if recipe is not None:
        return reward_recipe(recipe, _params(params))
    if params is not None:
        raise InputError("`--reward-params` has no effect without `--reward-recipe`; give both")
    return None


def _params(text: str | None) -> dict[str, Any]:
    if text is None:
        return {}
    if text.endswith(".json"):
        from dreadnode.recipes import read_text

        text = read_text(Path(text))
    try:
        params = json.loads(text)
    except ValueError as error:
        raise InputError(f"`--reward-params` is not JSON: {error}") from None
    if not isinstance(params, dict):
        raise InputError('`--reward-params` must be a JSON object, as in \'{"needle": "yes"}\'')
    return params
