"""Requests and responses about webhooks."""

from typing import Annotated

from pydantic import Field

from dreadnode_api.http.schemas import Request, Response, Timestamp
from dreadnode_api.models.jobs import Status


class WebhookRequest(Request):
    """A request for a new webhook of a workspace."""

    url: str = Field(
        min_length=1, max_length=2000, description="`https://…`, or `http://127.0.0.1…`"
    )
    # A strict model does not convert strings to this enum.
    statuses: list[Annotated[Status, Field(strict=False)]] = Field(
        default=[], max_length=5, description="The statuses to report; empty means all"
    )


class WebhookView(Response):
    """A webhook without its secret, with the state of its deliveries."""

    id: str
    url: str
    statuses: list[Status]
    created_at: Timestamp
    delivered: int = Field(default=0, description="Successful deliveries, while they are kept")
    waiting: int = Field(default=0, description="Deliveries that are waiting for an attempt")
    given_up: int = Field(default=0, description="Deliveries that failed for too long")
    last_error: str | None = Field(default=None, description="Why the newest delivery failed")


class NewWebhook(WebhookView):
    """A webhook with its secret, which is shown only once."""

    secret: str


class WebhookList(Response):
    """The webhooks of a workspace, oldest first."""

    items: list[WebhookView]


class DeliveryView(Response):
    """One message to a webhook, and its state."""

    id: str
    job_id: str
    type: str
    attempts: int
    last_status: int | None
    last_error: str | None
    created_at: Timestamp
    next_at: Timestamp | None = Field(description="Time of the next attempt")
    delivered_at: Timestamp | None
    given_up_at: Timestamp | None


class DeliveryList(Response):
    """The newest deliveries of a webhook, newest first."""

    items: list[DeliveryView]
