"""`dn train estimate sft | rl | FILE`: the price of a job before it exists."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from cyclopts import App, Parameter

from dreadnode.cli import money
from dreadnode.cli.context import DEFAULT, Common
from dreadnode.cli.output import Column, hint
from dreadnode.cli.train.arguments import RlJob, SftJob, requested
from dreadnode.cli.train.check import price_lines
from dreadnode.cli.train.job_file import NO_CHANGES, Changes, JobFilePath, requested_by_file
from dreadnode.errors import ProtocolError

if TYPE_CHECKING:
    from dreadnode.http.references import AnyJobRequest
    from dreadnode.http.sync_api.client import ApiClient
    from dreadnode.training.preflight import ComparedModel

app = App(name="estimate", help="Show the price of a job before it exists.", version_flags=[])

Compare = Annotated[
    bool,
    Parameter(help="Price the job on every catalog model that can run it, the cheapest first."),
]


@app.command
def sft(
    *,
    job: SftJob,
    compare: Compare = False,
    common: Common = DEFAULT,
) -> None:
    """Show the price of a supervised job; the flags are those of `dn train sft`."""
    with requested(job, common) as (client, request):
        _show(client, request, common, compare=compare)


@app.command
def rl(
    *,
    job: RlJob,
    compare: Compare = False,
    common: Common = DEFAULT,
) -> None:
    """Show the price of a reinforcement-learning job; the flags are those of `dn train rl`."""
    with requested(job, common) as (client, request):
        _show(client, request, common, compare=compare)


@app.command
def file(
    file: JobFilePath,
    /,
    *,
    changes: Changes = NO_CHANGES,
    compare: Compare = False,
    common: Common = DEFAULT,
) -> None:
    """Show the price of the job that a file describes."""
    with requested_by_file(file, changes, common) as (client, request):
        _show(client, request, common, compare=compare)


def _show(client: ApiClient, request: AnyJobRequest, common: Common, *, compare: bool) -> None:
    report = client.check_training_job(request, compare=compare)
    if not compare:
        if common.json:
            common.out.json(None if report.price is None else report.price.model_dump(mode="json"))
            return
        common.out.text(*price_lines(report))
        return
    if report.comparison is None:
        raise ProtocolError(f"{client.server} cannot count the tokens of this job")
    common.out.rows(report.comparison, COMPARED, none="no models", shrink=("model",))
    if not common.json:
        hint("estimates of other tokenizers are rough; `dn train check` on a model is exact for it")


def _fits(model: ComparedModel) -> str:
    return "yes" if model.fits else "too short"


def _state(model: ComparedModel) -> str:
    return "available" if model.available else model.status


COMPARED: tuple[Column, ...] = (
    ("model", lambda each: each.model),
    ("price", lambda each: money.total(each.price).partition(":")[0]),
    (
        "error",
        lambda each: "" if each.price.tokenizer.is_own else f"{each.price.tokenizer.error:.0%}",
    ),
    ("context", lambda each: each.context_length),
    ("fits", _fits),
    ("state", _state),
    ("rates of", lambda each: each.price.rates.as_of),
    ("promotion", lambda each: "yes" if each.price.rates.promotion else ""),
)
