"""Requests and responses about webhooks."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from pydantic import Field

from dreadnode.wire import Request, Response


class WebhookRequest(Request):
    """A request to create a webhook for the given job statuses, or for all if there are none."""

    url: str
    statuses: list[Literal["queued", "running", "completed", "failed", "cancelled"]] = Field(
        default_factory=list
    )


class Webhook(Response):
    """A webhook without its secret, with the numbers of its deliveries."""

    id: str
    url: str
    statuses: list[str]
    created_at: datetime
    delivered: int = 0
    waiting: int = 0
    given_up: int = 0
    last_error: str | None = None


class NewWebhook(Webhook):
    """A new webhook with its secret, which no later response contains."""

    secret: str = Field(repr=False)


class WebhookList(Response):
    """The webhooks of a workspace."""

    items: list[Webhook]


class Delivery(Response):
    """One message to a webhook, with its state."""

    id: str
    job_id: str
    type: str
    attempts: int
    created_at: datetime
    last_status: int | None = None
    last_error: str | None = None
    next_at: datetime | None = None
    delivered_at: datetime | None = None
    given_up_at: datetime | None = None

    @property
    def state(self) -> str:
        """Its state in one word."""
        if self.delivered_at is not None:
            return "delivered"
        return "failed" if self.given_up_at is not None else "pending"


class DeliveryList(Response):
    """The newest deliveries of a webhook, newest first."""

    items: list[Delivery]
