"""Every table of the database: the bottom layer, which imports nothing else of the API."""

# Each module registers its tables when it is imported.
from dreadnode_api.models import (  # noqa: F401
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

TABLES = Table.metadata
"""The tables of all modules above."""
