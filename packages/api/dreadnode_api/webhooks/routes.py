"""Routes by which administrators manage the webhooks of a workspace."""

from typing import Annotated

from fastapi import APIRouter, Path, Query

from dreadnode_api.auth.deps import Admin
from dreadnode_api.errors import ERRORS
from dreadnode_api.http.deps import InSettings, ReadSession, WriteSession
from dreadnode_api.http.patterns import SLUG
from dreadnode_api.webhooks import service
from dreadnode_api.webhooks.schemas import (
    DeliveryList,
    DeliveryView,
    NewWebhook,
    WebhookList,
    WebhookRequest,
    WebhookView,
)

router = APIRouter(prefix="/org/{org}/ws/{ws}/webhooks", responses=ERRORS, tags=["Webhooks"])

WebhookId = Annotated[str, Path(max_length=64, pattern=SLUG, description="Id of the webhook")]


@router.post("", status_code=201)
async def create_webhook(
    scope: Admin, request: WebhookRequest, session: WriteSession, settings: InSettings
) -> NewWebhook:
    """Create a webhook for changes of job status; its secret is shown only once."""
    webhook = await service.create(session, settings, scope, request)
    return NewWebhook.model_validate(webhook)


@router.get("")
async def list_webhooks(scope: Admin, session: ReadSession) -> WebhookList:
    """List the webhooks of a workspace, oldest first, with the state of their deliveries."""
    items = []
    for webhook in await service.find(session, scope):
        counts = await service.delivery_counts(session, webhook.id)
        items.append(WebhookView.of(webhook, **counts))
    return WebhookList(items=items)


@router.delete("/{webhook_id}")
async def delete_webhook(scope: Admin, webhook_id: WebhookId, session: WriteSession) -> WebhookView:
    """Delete a webhook; its waiting deliveries are cancelled."""
    webhook = await service.get(session, scope, webhook_id)
    view = WebhookView.model_validate(webhook)
    await service.remove(session, webhook)
    return view


@router.get("/{webhook_id}/deliveries")
async def list_deliveries(
    scope: Admin,
    webhook_id: WebhookId,
    session: ReadSession,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
) -> DeliveryList:
    """List the newest deliveries of a webhook, newest first."""
    webhook = await service.get(session, scope, webhook_id)
    found = await service.deliveries(session, webhook.id, limit)
    return DeliveryList(items=[DeliveryView.model_validate(each) for each in found])
