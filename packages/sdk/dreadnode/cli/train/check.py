"""`dn train check sft | rl | FILE`: what is known of a job before it exists."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Annotated

from cyclopts import App, Parameter

from dreadnode.cli import money, views
from dreadnode.cli.context import DEFAULT, Common
from dreadnode.cli.output import count, say, show
from dreadnode.cli.train.arguments import RlJob, SftJob, requested
from dreadnode.cli.train.job_file import NO_CHANGES, Changes, JobFilePath, requested_by_file
from dreadnode.lazy_types import jobs, preflight

app = App(
    name="check",
    help="Report on a job before it exists: its data, its warnings and its price.",
    version_flags=[],
)

_BAR = 30
_TRAINED = "⟦", "⟧"

Show = Annotated[
    int | None, Parameter(help="Number of a row to show as text; else the first usable one.")
]


@app.command
def sft(
    *,
    job: SftJob,
    show: Show = None,
    common: Common = DEFAULT,
) -> None:
    """Report on a supervised job; the flags are those of `dn train sft`."""
    with requested(job, common) as (client, request):
        _print(client.check_training_job(request, show=show), common)


@app.command
def rl(
    *,
    job: RlJob,
    show: Show = None,
    common: Common = DEFAULT,
) -> None:
    """Report on a reinforcement-learning job; the flags are those of `dn train rl`."""
    with requested(job, common) as (client, request):
        _print(client.check_training_job(request, show=show), common)


@app.command
def file(
    file: JobFilePath,
    /,
    *,
    changes: Changes = NO_CHANGES,
    show: Show = None,
    common: Common = DEFAULT,
) -> None:
    """Report on the job that a file describes."""
    with requested_by_file(file, changes, common) as (client, request):
        _print(client.check_training_job(request, show=show), common)


def _print(report: preflight.PreflightReport, common: Common) -> None:
    if common.json:
        common.out.json(report.model_dump(mode="json"))
        return
    found, plan = report.report, report.report.plan
    common.out.fields(
        {
            "model": _model(report),
            "format": found.renderer,
            "notes": found.format_notes,
            "data": views.data(found),
            "dropped": views.dropped(found),
            "lengths": _lengths(found.lengths),
            "steps": None if plan is None else _steps(plan.steps, plan.evaluations),
            "reward": [_sample(each) for each in found.reward_samples],
            "warnings": [each.message for each in report.warnings],
            "price": price_lines(report),
        }
    )
    if found.shown is not None:
        common.out.text("", *_shown(found.shown))
    say("no errors: the job would be accepted")


def _model(report: preflight.PreflightReport) -> str:
    model = report.model
    terms = [model.tinker_id, f"context {model.context_length:,} tokens"]
    if report.rehearsal:
        terms[0] += f" (rehearsal on {report.trained_model})"
    if model.max_lora_rank is not None:
        terms.append(f"rank up to {model.max_lora_rank}")
    if model.status == "retired":
        day = f" on {model.retired_on}" if model.retired_on else ""
        terms.append(f"hosted Tinker retired it{day}")
    return ", ".join(terms)


def _steps(steps: int, evaluations: int) -> str:
    return f"{steps:,}" + (f", {count(evaluations, 'evaluation')}" if evaluations else "")


def _lengths(lengths: jobs.Lengths | None) -> list[str]:
    """Return the lengths of rows in tokens, as figures and as a histogram."""
    if lengths is None:
        return []
    most = max((each.rows for each in lengths.bins), default=0)
    labels = [f"{each.least:,} to {each.most:,}" for each in lengths.bins]
    width = max(map(len, labels), default=0)
    return [
        f"median {lengths.median:,}, 95 % up to {lengths.p95:,}, longest {lengths.max:,} tokens",
        *(
            f"{label:>{width}}  {'█' * -(-each.rows * _BAR // most)} {each.rows:,}".rstrip()
            for label, each in zip(labels, lengths.bins, strict=True)
        ),
    ]


def _sample(sample: preflight.RewardSample) -> str:
    reward = f"{sample.reward:g}" if sample.reward is not None else f"failed: {sample.error}"
    quoted = f" “{sample.completion}”" if sample.completion else ""
    return f"row {sample.row}, {sample.kind} completion{quoted}: {reward}"


def price_lines(report: preflight.PreflightReport) -> Sequence[str]:
    """Return the price of a job, with its parts."""
    shown = money.lines(report.price)
    if report.rehearsal:
        shown[0] = f"free: this is a rehearsal; the job itself: {shown[0]}"
    elif not report.is_paid:
        shown[0] = f"free on this server's own engine; hosted Tinker: {shown[0]}"
    return shown


def _shown(row: preflight.ShownRow) -> Iterator[str]:
    """Yield a rendered row as lines, with the trained text between brackets."""
    marked = f"{_TRAINED[0]}tokens that carry loss{_TRAINED[1]}"
    yield f"row {row.row} as it is trained, with the {marked} marked:"
    for sequence in row.sequences:
        marked = "".join(
            f"{_TRAINED[0]}{part.text}{_TRAINED[1]}" if part.trained else part.text
            for part in sequence.parts
        )
        yield ""
        yield from (f"  {show(line)}".rstrip() for line in marked.split("\n"))
        if sequence.tokens_not_shown:
            yield f"  … {sequence.tokens_not_shown:,} more tokens"
