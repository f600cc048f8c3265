"""Making, listing and deleting webhooks, as functions of a session."""

from collections.abc import Mapping, Sequence

from sqlalchemy import delete, func, select
from sqlalchemy.ext.asyncio import AsyncSession

from dreadnode_api.auth.deps import WorkspaceScope
from dreadnode_api.errors import Conflict, NotFound
from dreadnode_api.models.base import now
from dreadnode_api.models.webhooks import Delivery, Webhook
from dreadnode_api.webhooks import signing
from dreadnode_api.webhooks.addresses import check_url
from dreadnode_api.webhooks.schemas import WebhookRequest

MOST = 20


async def create(
    session: AsyncSession, place: WorkspaceScope, request: WebhookRequest, targets: str
) -> Webhook:
    """Make a webhook, with a secret of its own.

    Raises:
        Conflict: the workspace has as many as it may have.
        Invalid: the address is none for a webhook.
    """
    check_url(request.url, targets)
    known = await session.scalar(
        select(func.count()).where(Webhook.workspace_id == place.workspace_id)
    )
    if (known or 0) >= MOST:
        raise Conflict(f"A workspace may have {MOST} webhooks; delete one of them first")
    webhook = Webhook(
        workspace_id=place.workspace_id,
        url=request.url,
        secret=signing.new_secret(),
        statuses=sorted({status.value for status in request.statuses}),
        created_by=place.caller.user_id,
        created_at=now(),
    )
    session.add(webhook)
    await session.flush()
    return webhook


async def get(session: AsyncSession, place: WorkspaceScope, webhook_id: str) -> Webhook:
    """Return a webhook.

    Raises:
        NotFound: there is none of this id in the workspace.
    """
    webhook = await session.get(Webhook, webhook_id)
    if webhook is None or webhook.workspace_id != place.workspace_id:
        raise NotFound(
            f"There is no webhook `{webhook_id}` in this workspace; see `dn webhook list`"
        )
    return webhook


async def find(session: AsyncSession, place: WorkspaceScope) -> Sequence[Webhook]:
    """Return the webhooks of a workspace, oldest first."""
    found = await session.scalars(
        select(Webhook).where(Webhook.workspace_id == place.workspace_id).order_by(Webhook.id)
    )
    return found.all()


async def tallies(session: AsyncSession, webhook_id: str) -> Mapping[str, int | str | None]:
    """Return how many deliveries of a webhook came how far, and why its newest one failed."""
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
    """Delete a webhook with what it is still owed."""
    await session.execute(delete(Delivery).where(Delivery.webhook_id == webhook.id))
    await session.delete(webhook)
