"""Every table of the database: the bottom layer, which imports nothing else of the API."""

from dreadnode_api.models import (
    adapters,
    auth,
    capabilities,
    checkpoints,
    checks,
    datasets,
    health,
    jobs,
    quotas,
    webhooks,
)
from dreadnode_api.models.base import Table

__all__ = [
    "TABLES",
    "adapters",
    "auth",
    "capabilities",
    "checkpoints",
    "checks",
    "datasets",
    "health",
    "jobs",
    "quotas",
    "webhooks",
]

TABLES = Table.metadata
"""The tables of all modules above, which register them when they are imported."""
