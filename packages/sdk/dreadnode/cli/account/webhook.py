"""`dn webhook create | list | delete | deliveries`."""

from __future__ import annotations

from typing import Annotated, Literal

from cyclopts import App, Parameter

from dreadnode.cli.context import DEFAULT, Common
from dreadnode.cli.output import Column, hint, say
from dreadnode.lazy_types import webhooks

app = App(name="webhook", help="Send job events to other services.", version_flags=[])

Webhook = Annotated[str, Parameter(help="Id of the webhook: see `dn webhook list`.")]
Status = Literal["queued", "running", "completed", "failed", "cancelled"]

WEBHOOKS: tuple[Column, ...] = (
    ("id", lambda hook: hook.id),
    ("url", lambda hook: hook.url),
    ("events", lambda hook: ", ".join(hook.statuses) or "all"),
    ("delivered", lambda hook: hook.delivered),
    ("pending", lambda hook: hook.waiting),
    ("failed", lambda hook: hook.given_up),
    ("last error", lambda hook: hook.last_error),
    ("created", lambda hook: hook.created_at),
)

DELIVERIES: tuple[Column, ...] = (
    ("id", lambda delivery: delivery.id),
    ("job", lambda delivery: delivery.job_id),
    ("type", lambda delivery: delivery.type),
    ("state", lambda delivery: delivery.state),
    ("attempts", lambda delivery: delivery.attempts),
    ("last error", lambda delivery: delivery.last_error),
    ("created", lambda delivery: delivery.created_at),
)


@app.command
def create(
    url: Annotated[str, Parameter(help="Address: `https://…`, or `http://127.0.0.1…`.")],
    /,
    *,
    status: Annotated[
        tuple[Status, ...],
        Parameter(help="Job status that sends an event; all by default. Repeatable."),
    ] = (),
    common: Common = DEFAULT,
) -> None:
    """Create a webhook for job events; needs an admin.

    Every message is signed with a secret, which is shown only now. Only the secret goes to stdout.
    """
    request = webhooks.WebhookRequest(url=url, statuses=list(dict.fromkeys(status)))
    with common.client() as client:
        made = client.create_webhook(request)
    if common.json:
        common.out.json(made.model_dump(mode="json"))
        return
    say(f"created webhook {made.id}; its messages are signed with this secret:")
    common.out.text(made.secret)


@app.command(name="list")
def list_webhooks(*, common: Common = DEFAULT) -> None:
    """List the workspace's webhooks with the state of their deliveries."""
    with common.client() as client:
        found = client.list_webhooks().items
    common.out.rows(found, WEBHOOKS, none="no webhooks")
    for hook in found:
        if hook.last_error and not common.json:
            hint(f"`dn webhook deliveries {hook.id}` shows each message")
            break


@app.command
def delete(webhook: Webhook, /, *, common: Common = DEFAULT) -> None:
    """Delete a webhook with its pending deliveries."""
    with common.client() as client:
        deleted = client.delete_webhook(webhook)
    say(f"deleted webhook {deleted.id}")
    common.out.record(deleted, WEBHOOKS[:2])


@app.command
def deliveries(
    webhook: Webhook,
    /,
    *,
    limit: Annotated[int, Parameter(help="Number of messages.", show_default=True)] = 100,
    common: Common = DEFAULT,
) -> None:
    """List the newest messages to a webhook with the state of each."""
    with common.client() as client:
        found = client.list_webhook_deliveries(webhook, limit=limit).items
    common.out.rows(found, DELIVERIES, none="no deliveries yet")
