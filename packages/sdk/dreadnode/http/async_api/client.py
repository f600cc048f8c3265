"""The client with async methods.

async with AsyncApiClient(server, token, organization="main", workspace="default") as client:
    job = await client.create_training_job(SftRequest(model="Qwen/Qwen3-8B", config=config))
    job = await client.wait_for_training_job(job.id)
"""

from __future__ import annotations

from dreadnode.http.async_api.capabilities import AsyncCapabilityMethods
from dreadnode.http.async_api.catalog import AsyncCatalogMethods
from dreadnode.http.async_api.rollouts import AsyncRolloutMethods
from dreadnode.http.async_api.training import AsyncTrainingMethods
from dreadnode.http.async_api.webhooks import AsyncWebhookMethods


class AsyncApiClient(
    AsyncCatalogMethods,
    AsyncCapabilityMethods,
    AsyncTrainingMethods,
    AsyncRolloutMethods,
    AsyncWebhookMethods,
):
    """A client of the API with async methods."""
