"""Alembic migrations, shipped with the package: `upgrade` is all that a start needs."""

from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, text

from dreadnode_api.db import Database
from dreadnode_api.models import auth as _auth
from dreadnode_api.models import capabilities as _capabilities
from dreadnode_api.models import checkpoints as _checkpoints
from dreadnode_api.models import checks as _checks
from dreadnode_api.models import datasets as _datasets
from dreadnode_api.models import jobs as _jobs
from dreadnode_api.models import webhooks as _webhooks
from dreadnode_api.models.base import Table

METADATA = Table.metadata
# Imported for the tables that they register.
_OWNERS = (_auth, _capabilities, _checkpoints, _checks, _datasets, _jobs, _webhooks)

# Any number that no other program takes for its advisory lock.
_LOCK = 0x646E5F6D


class SchemaError(Exception):
    """The database is not of this version; the text is one sentence for a person."""


def configuration(connection: Connection | None = None) -> Config:
    """Return Alembic's configuration, on `connection` where there is one."""
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent).replace("%", "%%"))
    config.attributes["connection"] = connection
    return config


async def upgrade(database: Database) -> None:
    """Bring the schema to this version; several processes may try at once.

    Raises:
        SchemaError: the database was written by a newer version.
    """
    engine = database.engine.execution_options(sqlite_begin="BEGIN IMMEDIATE")
    async with engine.begin() as connection:
        await connection.run_sync(_upgrade)


def _upgrade(connection: Connection) -> None:
    if connection.dialect.name == "postgresql":
        connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _LOCK})
    _known(connection)
    command.upgrade(configuration(connection), "head")


async def check(database: Database) -> None:
    """Return when the schema is of this version.

    Raises:
        SchemaError: it is older or newer.
    """
    async with database.engine.connect() as connection:
        current = await connection.run_sync(_known)
    if current != ScriptDirectory.from_config(configuration()).get_current_head():
        raise SchemaError(
            "The database is of an older version; run `python -m dreadnode_api init` once"
        )


def _known(connection: Connection) -> str | None:
    current = MigrationContext.configure(connection).get_current_revision()
    revisions = ScriptDirectory.from_config(configuration()).walk_revisions()
    if current is not None and current not in {r.revision for r in revisions}:
        raise SchemaError(
            f"The database was written by a newer version (`{current}`); install that version"
        )
    return current
