"""Webhooks as functions of a session."""

from collections.abc import Mapping, Sequence

from sqlalchemy import delete, func, select
from sqlalchemy.ext.asyncio import AsyncSession

from dreadnode_api import quotas
from dreadnode_api.auth.deps import WorkspaceScope
from dreadnode_api.errors import Conflict, NotFound
from dreadnode_api.models.base import now
from dreadnode_api.models.webhooks import Delivery, Webhook
from dreadnode_api.settings import Settings
from dreadnode_api.webhooks import signing
from dreadnode_api.webhooks.addresses import check_url
from dreadnode_api.webhooks.schemas import WebhookRequest

MAX_PER_WORKSPACE = 20


async def create(
    session: AsyncSession, settings: Settings, scope: WorkspaceScope, request: WebhookRequest
) -> Webhook:
    """Create a webhook with a secret of its own.

    Raises:
        Conflict: the workspace has the maximum number, or the organization's quota is used up.
        Invalid: the URL is not allowed for a webhook.
    """
    check_url(request.url, settings.webhook_targets)
    await quotas.require(session, settings, scope.org_id, "webhooks")
    known = await session.scalar(
        select(func.count()).where(Webhook.workspace_id == scope.workspace_id)
    )
    if (known or 0) >= MAX_PER_WORKSPACE:
        raise Conflict(
            f"A workspace has at most {MAX_PER_WORKSPACE} webhooks; delete one of them first"
        )
    webhook = Webhook(
        workspace_id=scope.workspace_id,
        url=request.url,
        secret=signing.new_secret(),
        statuses=sorted({status.value for status in request.statuses}),
        created_by=scope.caller.user_id,
        created_at=now(),
    )
    session.add(webhook)
    await session.flush()
    return webhook


async def get(session: AsyncSession, scope: WorkspaceScope, webhook_id: str) -> Webhook:
    """Return a webhook.

    Raises:
        NotFound: the workspace has no webhook with this id.
    """
    webhook = await session.get(Webhook, webhook_id)
    if webhook is None or webhook.workspace_id != scope.workspace_id:
        raise NotFound(f"This workspace has no webhook `{webhook_id}`; see `dn webhook list`")
    return webhook


async def find(session: AsyncSession, scope: WorkspaceScope) -> Sequence[Webhook]:
    """Return the webhooks of a workspace, oldest first."""
    found = await session.scalars(
        select(Webhook).where(Webhook.workspace_id == scope.workspace_id).order_by(Webhook.id)
    )
    return found.all()


async def delivery_counts(session: AsyncSession, webhook_id: str) -> Mapping[str, int | str | None]:
    """Return the numbers of delivered, waiting and failed deliveries, and the newest error."""
    delivered, given_up, waiting = (
        await session.execute(
            select(
                func.count(Delivery.delivered_at),
                func.count(Delivery.given_up_at),
                func.count(Delivery.next_at),
            ).where(Delivery.webhook_id == webhook_id)
        )
    ).one()
    newest = await session.scalar(
        select(Delivery.last_error)
        .where(Delivery.webhook_id == webhook_id, Delivery.attempts > 0)
        .order_by(Delivery.id.desc())
        .limit(1)
    )
    return {
        "delivered": delivered,
        "given_up": given_up,
        "waiting": waiting,
        "last_error": newest,
    }


async def deliveries(session: AsyncSession, webhook_id: str, limit: int) -> Sequence[Delivery]:
    """Return the newest deliveries of a webhook, newest first."""
    found = await session.scalars(
        select(Delivery)
        .where(Delivery.webhook_id == webhook_id)
        .order_by(Delivery.id.desc())
        .limit(limit)
    )
    return found.all()


async def remove(session: AsyncSession, webhook: Webhook) -> None:
    """Delete a webhook with its deliveries."""
    await session.execute(delete(Delivery).where(Delivery.webhook_id == webhook.id))
    await session.delete(webhook)
