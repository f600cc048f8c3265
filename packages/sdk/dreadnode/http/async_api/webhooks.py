"""Webhooks, which send job events to other services."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dreadnode.http.async_api.requests import AsyncRequests
from dreadnode.http.calls import Call, body_of, get, segment, workspace

if TYPE_CHECKING:
    from dreadnode.webhooks import DeliveryList, NewWebhook, Webhook, WebhookList, WebhookRequest


class AsyncWebhookMethods(AsyncRequests):
    """Methods for webhooks."""

    async def create_webhook(self, request: WebhookRequest) -> NewWebhook:
        """Create a webhook for job events; only this response contains its secret."""
        from dreadnode.webhooks import NewWebhook

        path = f"{workspace(self.scope)}/webhooks"
        call = Call("POST", path, NewWebhook.model_validate_json, body=body_of(request))
        return await self.send(call)

    async def list_webhooks(self) -> WebhookList:
        """List the workspace's webhooks with the state of their deliveries."""
        from dreadnode.webhooks import WebhookList

        path = f"{workspace(self.scope)}/webhooks"
        return await self.send(get(path, WebhookList.model_validate_json))

    async def delete_webhook(self, webhook_id: str) -> Webhook:
        """Delete a webhook with its pending deliveries."""
        from dreadnode.webhooks import Webhook

        path = f"{workspace(self.scope)}/webhooks/{segment(webhook_id)}"
        return await self.send(Call("DELETE", path, Webhook.model_validate_json))

    async def list_webhook_deliveries(self, webhook_id: str, *, limit: int = 100) -> DeliveryList:
        """List the newest deliveries of a webhook, newest first."""
        from dreadnode.webhooks import DeliveryList

        path = f"{workspace(self.scope)}/webhooks/{segment(webhook_id)}/deliveries"
        return await self.send(get(path, DeliveryList.model_validate_json, {"limit": limit}))
