"""Webhooks, which send job events to other services."""

from __future__ import annotations

from dreadnode.http.async_api.requests import AsyncRequests
from dreadnode.http.calls import Call, body_of, get, segment, workspace
from dreadnode.lazy_types import webhooks


class AsyncWebhookMethods(AsyncRequests):
    """Methods for webhooks."""

    async def create_webhook(self, request: webhooks.WebhookRequest) -> webhooks.NewWebhook:
        """Create a webhook for job events; only this response contains its secret."""
        path = f"{workspace(self.scope)}/webhooks"
        call = Call("POST", path, webhooks.NewWebhook.model_validate_json, body=body_of(request))
        return await self.send(call)

    async def list_webhooks(self) -> webhooks.WebhookList:
        """List the workspace's webhooks with the state of their deliveries."""
        path = f"{workspace(self.scope)}/webhooks"
        return await self.send(get(path, webhooks.WebhookList.model_validate_json))

    async def delete_webhook(self, webhook_id: str) -> webhooks.Webhook:
        """Delete a webhook with its pending deliveries."""
        path = f"{workspace(self.scope)}/webhooks/{segment(webhook_id)}"
        return await self.send(Call("DELETE", path, webhooks.Webhook.model_validate_json))

    async def list_webhook_deliveries(
        self, webhook_id: str, *, limit: int = 100
    ) -> webhooks.DeliveryList:
        """List the newest deliveries of a webhook, newest first."""
        path = f"{workspace(self.scope)}/webhooks/{segment(webhook_id)}/deliveries"
        return await self.send(
            get(path, webhooks.DeliveryList.model_validate_json, {"limit": limit})
        )
