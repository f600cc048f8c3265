"""The price of a job that costs money: shown, and confirmed before the job starts."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from dreadnode.cli import money
from dreadnode.cli.output import say
from dreadnode.errors import DreadnodeError, InputError

if TYPE_CHECKING:
    from dreadnode.http.references import AnyJobRequest
    from dreadnode.http.sync_api.client import ApiClient


class Declined(DreadnodeError):
    """A paid job that nobody has agreed to."""


def confirm(client: ApiClient, request: AnyJobRequest, *, yes: bool) -> None:
    """Return if REQUEST costs nothing, or once its price was shown and agreed to.

    A person may take hours to answer. If the price has changed since, it is shown and asked about
    again.

    Raises:
        Declined: The answer is no.
        InputError: There is no terminal to ask on, and YES is false.
    """
    if getattr(request, "rehearse", False) or not _charges(client):
        return
    report = client.check_training_job(request)
    say(*(f"warning: {each.message}" for each in report.warnings))
    while True:
        price = report.price
        _ask(money.lines(price), yes=yes, can_rehearse=hasattr(request, "rehearse"))
        if yes:
            return
        report = client.check_training_job(request)
        if report.price == price:
            return
        say("the price has changed since it was shown")


def confirm_retry(client: ApiClient, job_id: str, *, yes: bool) -> None:
    """Return if a retry of a job costs nothing, or once it is agreed to.

    Raises:
        Declined: The answer is no.
        InputError: There is no terminal to ask on, and YES is false.
    """
    if not _charges(client):
        return
    job = client.get_training_job(job_id)
    if job.rehearsal:
        return
    whole = job.preflight.price if job.preflight else None
    before = f"{money.lines(whole)[0]} for the whole job when it was submitted"
    _ask([before, "a retry pays for the steps that are left"], yes=yes, can_rehearse=False)


def _ask(price: Sequence[str], *, yes: bool, can_rehearse: bool) -> None:
    """Show PRICE, and return if it is agreed to."""
    say(f"price: {price[0]}", *(f"  {line}" for line in price[1:]))
    if yes:
        return
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        free = ", or `--rehearse` to try it for free" if can_rehearse else ""
        raise InputError(
            f"this job costs money ({price[0]}), and there is no terminal to ask on; add `--yes` "
            f"to start it{free}"
        )
    sys.stderr.write("Start this job? [y/N] ")
    sys.stderr.flush()
    if sys.stdin.readline().strip().lower() not in ("y", "yes"):
        raise Declined("nothing was started")


def _charges(client: ApiClient) -> bool:
    """Whether jobs on this server cost money; on its own engine they do not."""
    engine = client.get_training_catalog(limit=1, expand="available").get("engine")
    return isinstance(engine, dict) and engine.get("is_paid") is True
