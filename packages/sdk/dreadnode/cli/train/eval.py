"""`dn train eval` and `dn train result`: several models on the same rows, side by side."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from dreadnode.cli.context import DEFAULT, Common
from dreadnode.cli.output import hint, say
from dreadnode.cli.train.arguments import Name, Tags, Yes, dataset_ref, reward
from dreadnode.cli.train.eval_flags import FLAG_NAMES, NO_FLAGS, EvalFlags
from dreadnode.cli.train.evaluation_views import show_result, write_csv
from dreadnode.cli.train.flags import flags_named, given
from dreadnode.cli.train.jobs import Job
from dreadnode.cli.train.price import confirm
from dreadnode.cli.train.progress import follow
from dreadnode.errors import InputError, UnusableFile
from dreadnode.lazy_types import evaluations
from dreadnode.recipes import python_recipe

if TYPE_CHECKING:
    from dreadnode.http.sync_api.client import ApiClient

Csv = Annotated[
    Path | None,
    Parameter(help="Also write a line for each row, model and completion to this file."),
]


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class EvalJob:
    """The flags of an evaluation: `flags` are the settings of its config."""

    dataset: Annotated[
        str,
        Parameter(help="Dataset: NAME@VERSION, or a file or a folder, which is uploaded first."),
    ]
    reward_recipe: Annotated[
        str | None,
        Parameter(
            name=("--reward", "--reward-recipe"),
            help="Reward recipe that scores completions, or a .py file with a function `reward`; "
            "only the loss if not given.",
        ),
    ] = None
    reward_params: Annotated[
        str | None, Parameter(help="The recipe's parameters: JSON, or a .json file.")
    ] = None
    environment: Annotated[
        Path | None, Parameter(help="A .py file with tools for completions of several turns.")
    ] = None
    name: Name = None
    tag: Tags = ()
    flags: EvalFlags = NO_FLAGS

    def request(self, client: ApiClient, models: tuple[str, ...]) -> evaluations.EvalRequest:
        """Return the request for the job, after the upload of data that is named by a path.

        Raises:
            InputError: A setting or the reward cannot be used.
        """
        settings = self.settings(models)
        recipe = reward(self.reward_recipe, self.reward_params)
        config = evaluations.EvalConfig(
            models=tuple(client.resolve_model(each) for each in models),
            dataset_ref=dataset_ref(client, self.dataset),
            reward_recipe=recipe,
            environment=None if self.environment is None else python_recipe(self.environment),
            **settings,
        )
        return evaluations.EvalRequest(config=config, name=self.name, tags=self.tag)

    def settings(self, models: tuple[str, ...]) -> dict[str, Any]:
        """Return the settings of the config that the flags give, before anything is sent."""
        if not models:
            raise InputError("name at least one model: a job, a catalog id or a `tinker://` path")
        return given(self.flags, evaluations.EvalConfig, FLAG_NAMES)


def evaluate(
    *models: Annotated[
        str,
        Parameter(
            help="Job (its id, name or `last`), JOB@best, JOB@step-000100, a catalog id or a "
            "tinker:// path.",
        ),
    ],
    job: EvalJob,
    wait: Annotated[
        bool, Parameter(negative="--no-wait", help="Wait for the result; on by default.")
    ] = True,
    csv: Csv = None,
    yes: Yes = False,
    common: Common = DEFAULT,
) -> None:
    """Evaluate models on the same rows: their loss, and rewards of what they sample.

    The base model of a job is evaluated beside it, unless `--no-include-base` is given. The table
    has 95 % confidence intervals over rows, and compares each model with the first row by row. An
    evaluation is a job: it has a price, can be cancelled, and keeps finished rows when it is
    repeated.
    """
    job.settings(models)
    if csv is not None and not wait:
        raise InputError("`--csv` needs the result; leave `--no-wait` out")
    _refuse_existing(csv)
    with common.client() as client:
        request = job.request(client, models)
        with flags_named(FLAG_NAMES):
            confirm(client, request, yes=yes)
            created = client.create_training_job(request)
        if not wait:
            from dreadnode.cli.train.sft import submitted

            submitted(client, created, common, wait=False)
            hint(f"`dn train result {created.id}` shows its result")
            return
        say(f"submitted evaluation {created.id}")
        follow(client, created.id, common, show_job=False)
        _show(client, created.id, common, csv)


def result(job: Job, /, *, csv: Csv = None, common: Common = DEFAULT) -> None:
    """Show the result of an evaluation that has ended."""
    _refuse_existing(csv)
    with common.client() as client:
        _show(client, client.find_training_job(job), common, csv)


def _show(client: ApiClient, job_id: str, common: Common, csv: Path | None) -> None:
    found = client.get_evaluation(job_id)
    if csv is not None:
        write_csv(csv, client.get_evaluation_rows(job_id))
        say(f"wrote {csv}")
    if common.json:
        common.out.json(found.model_dump(mode="json"))
        return
    show_result(found, common.out)
    sys.stdout.flush()
    job = client.get_training_job(job_id)
    if job.stopped_by is not None:
        say(f"stopped by the {job.stopped_by}: `dn train retry {job_id}` evaluates the other rows")


def _refuse_existing(csv: Path | None) -> None:
    if csv is not None and csv.exists():
        raise UnusableFile(f"{csv} already exists; name another file")
