"""`dn train cost`: what jobs cost, by job, model, workspace or month."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from typing import Annotated, Literal

from cyclopts import Parameter

from dreadnode.cli import views
from dreadnode.cli.context import DEFAULT, Common
from dreadnode.cli.money import KINDS
from dreadnode.cli.output import Column, say
from dreadnode.errors import InputError
from dreadnode.lazy_types import costs

By = Literal["job", "model", "workspace", "month"]


def cost(
    *,
    by: Annotated[By, Parameter(help="What to group the jobs by.", show_default=True)] = "job",
    month: Annotated[
        str | None,
        Parameter(help="Only jobs submitted in this month, as 2026-11; all months if not given."),
    ] = None,
    workspace: Annotated[str | None, Parameter(help="Only jobs of this workspace.")] = None,
    csv: Annotated[bool, Parameter(help="Print CSV with all columns.")] = False,
    common: Common = DEFAULT,
) -> None:
    """Show what jobs cost, with the rates in force at their submission.

    PAID is 0 for rehearsals and for jobs on an engine of your own; LIST is what hosted Tinker
    charges for the same tokens. A sum over an unknown rate is `?`. Deleted jobs are included.
    """
    if csv and common.json:
        raise InputError("`--csv` and `--json` are two forms of the output; give one of them")
    if month is not None and re.fullmatch(r"2\d{3}-(0[1-9]|1[0-2])", month) is None:
        raise InputError(f"`--month` must be a month such as `2026-11`, not `{month}`")
    with common.client() as client:
        report = client.get_costs(by, month=month, workspace=workspace)
    if common.json:
        common.out.json(report.model_dump(mode="json"))
    elif csv:
        _csv(report)
    elif report.items:
        common.out.rows([*report.items, report.total], _columns(by), none="")
        for reason in sorted({row.reason for row in report.items if row.reason}):
            say(f"?: {reason}")
    else:
        say("no jobs that used tokens")


def _columns(by: By) -> tuple[Column, ...]:
    name: tuple[Column, ...] = (("name", lambda row: row.name),) if by == "job" else ()
    count: tuple[Column, ...] = () if by == "job" else (("jobs", lambda row: row.jobs),)
    return (
        (by, lambda row: row.key),
        *name,
        *count,
        *((kind.replace("_", " "), _tokens(kind)) for kind in KINDS),
        ("paid", lambda row: _dollars(row, "usd")),
        ("list", lambda row: _dollars(row, "list_usd")),
    )


def _tokens(kind: str) -> Callable[[costs.CostRow], int]:
    return lambda row: row.tokens.get(kind, 0)


def _dollars(row: costs.CostRow, field: Literal["usd", "list_usd"]) -> str:
    amount = getattr(row, field)
    return "?" if amount is None else views.dollars(amount)


def _csv(report: costs.CostReport) -> None:
    """Print exact amounts, and an empty cell where one is not known."""
    import csv

    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow([report.group_by, "name", "jobs", *KINDS, "usd", "list_usd", "reason"])
    for row in report.items:
        tokens = [row.tokens.get(kind, 0) for kind in KINDS]
        writer.writerow([row.key, row.name, row.jobs, *tokens, row.usd, row.list_usd, row.reason])
