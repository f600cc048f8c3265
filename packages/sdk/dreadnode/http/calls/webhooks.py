"""Webhooks: who is told of a workspace's jobs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dreadnode.config import Scope
from dreadnode.http.calls.call import Call, body_of, get, one, segment, workspace

if TYPE_CHECKING:
    from dreadnode.webhooks import DeliveryList, NewWebhook, Webhook, WebhookList, WebhookRequest


def create_webhook(scope: Scope, /, request: WebhookRequest) -> Call[NewWebhook]:
    """Have an address told of the workspace's jobs; its secret is told this once."""
    return Call("POST", _webhooks(scope), one("webhooks", "NewWebhook"), body=body_of(request))


def list_webhooks(scope: Scope, /) -> Call[WebhookList]:
    """The workspace's webhooks, and how their deliveries fare."""
    return get(_webhooks(scope), one("webhooks", "WebhookList"))


def delete_webhook(scope: Scope, /, webhook_id: str) -> Call[Webhook]:
    """Delete a webhook, with what it is still owed."""
    path = f"{_webhooks(scope)}/{segment(webhook_id)}"
    return Call("DELETE", path, one("webhooks", "Webhook"))


def list_webhook_deliveries(
    scope: Scope, /, webhook_id: str, *, limit: int = 100
) -> Call[DeliveryList]:
    """The newest messages to a webhook, newest first."""
    path = f"{_webhooks(scope)}/{segment(webhook_id)}/deliveries"
    return get(path, one("webhooks", "DeliveryList"), {"limit": limit})


def _webhooks(scope: Scope) -> str:
    return f"{workspace(scope)}/webhooks"
