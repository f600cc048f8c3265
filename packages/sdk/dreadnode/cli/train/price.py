"""The price of a job that costs money: shown, and confirmed before the job starts."""

from __future__ import annotations

import sys
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

    Raises:
        Declined: The answer is no.
        InputError: There is no terminal to ask on, and YES is false.
    """
    if getattr(request, "rehearse", False) or not _charges(client):
        return
    report = client.check_training_job(request)
    price = report.price
    say(*(f"warning: {each.message}" for each in report.warnings))
    shown = ["unknown: the server cannot count the tokens"] if price is None else money.lines(price)
    say(f"price: {shown[0]}", *(f"  {line}" for line in shown[1:]))
    if yes:
        return
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        raise InputError(
            f"this job costs money ({shown[0]}), and there is no terminal to ask on; add `--yes` "
            "to start it, or `--rehearse` to try it for free"
        )
    sys.stderr.write("Start this job? [y/N] ")
    sys.stderr.flush()
    if sys.stdin.readline().strip().lower() not in ("y", "yes"):
        raise Declined("nothing was started")


def _charges(client: ApiClient) -> bool:
    """Whether jobs on this server cost money; on its own engine they do not."""
    engine = client.get_training_catalog(limit=1, expand="available").get("engine")
    return isinstance(engine, dict) and engine.get("is_paid") is True
