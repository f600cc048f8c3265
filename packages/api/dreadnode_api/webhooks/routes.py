"""Routes by which administrators manage the webhooks of a workspace."""

import json
from typing import Annotated

from fastapi import APIRouter, Path, Query

from dreadnode_api.auth.deps import Admin
from dreadnode_api.errors import ERRORS
from dreadnode_api.http.deps import InSettings, ReadSession, WriteSession
from dreadnode_api.http.patterns import SLUG
from dreadnode_api.models.jobs import Status
from dreadnode_api.models.webhooks import Delivery, Webhook
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
    return NewWebhook(**_view(webhook).model_dump(), secret=webhook.secret)


@router.get("")
async def list_webhooks(scope: Admin, session: ReadSession) -> WebhookList:
    """List the webhooks of a workspace, oldest first, with the state of their deliveries."""
    items = []
    for webhook in await service.find(session, scope):
        counts = await service.delivery_counts(session, webhook.id)
        items.append(_view(webhook).model_copy(update=dict(counts)))
    return WebhookList(items=items)


@router.delete("/{webhook_id}")
async def delete_webhook(scope: Admin, webhook_id: WebhookId, session: WriteSession) -> WebhookView:
    """Delete a webhook; its waiting deliveries are cancelled."""
    webhook = await service.get(session, scope, webhook_id)
    view = _view(webhook)
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
    return DeliveryList(items=[_delivery(each) for each in found])


def _view(webhook: Webhook) -> WebhookView:
    return WebhookView(
        id=webhook.id,
        url=webhook.url,
        statuses=[Status(each) for each in webhook.statuses],
        created_at=webhook.created_at,
    )


def _delivery(row: Delivery) -> DeliveryView:
    return DeliveryView(
        id=row.id,
        job_id=row.job_id,
        type=json.loads(row.body)["type"],
        attempts=row.attempts,
        last_status=row.last_status,
        last_error=row.last_error,
        created_at=row.created_at,
        next_at=row.next_at,
        delivered_at=row.delivered_at,
        given_up_at=row.given_up_at,
    )
