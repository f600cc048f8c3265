"""`dn` alone: what to do first, which depends on what is set up."""

from __future__ import annotations

from collections.abc import Mapping

from dreadnode.cli.context import DEFAULT, complete_scope, transport
from dreadnode.errors import AuthenticationError, ConnectionFailed, NoServerSet

TRAIN = {
    "dn train catalog": "choose a base model",
    "dn train sft --model MODEL --dataset rows.jsonl --rehearse": "rehearse a job for free",
    "dn train init sft": "write a job file with every setting",
}
FOLLOW = {
    "dn train list": "list the jobs",
    "dn train watch last": "follow your newest job",
    "dn train plot last": "plot its metrics",
    "dn train sft --model MODEL --dataset rows.jsonl": "submit another one",
}


def show_first_steps() -> None:
    """Print what is set up, and the commands that come next."""
    try:
        server = DEFAULT.connection().server
    except NoServerSet:
        _show(
            "No server is set.",
            {
                "dn serve": "start one on this machine",
                "dn login --server URL": "sign in to another one, with a token of it",
            },
        )
        return
    try:
        summary, steps = _signed_in()
    except AuthenticationError:
        summary = f"You are not signed in to {server}."
        steps = {f"dn login --server {server}": "save a token of it"}
    except ConnectionFailed:
        summary = f"The server {server} does not respond."
        steps = {
            "dn serve": "start it, if it is the one of this machine",
            "dn profile list": "list other servers; `dn profile use NAME` chooses one",
        }
    _show(summary, steps)


def _signed_in() -> tuple[str, Mapping[str, str]]:
    from dreadnode.http.retries import Retries
    from dreadnode.http.sync_api.client import ApiClient

    connection = DEFAULT.connection()
    with ApiClient.to(connection, transport=transport.get(), retries=Retries(limit=0)) as client:
        user = client.get_user()
        complete_scope(client)
        jobs = client.list_training_jobs(page_size=1).total
        place = f"{client.scope.organization}/{client.scope.workspace}"
    return f"Signed in to {connection.server} as {user.username}, workspace {place}.", (
        FOLLOW if jobs else TRAIN
    )


def _show(summary: str, steps: Mapping[str, str]) -> None:
    width = max(map(len, steps))
    lines = [f"  {command:<{width}}  {purpose}" for command, purpose in steps.items()]
    DEFAULT.out.text(summary, *lines, "`dn --help` lists all commands.")
