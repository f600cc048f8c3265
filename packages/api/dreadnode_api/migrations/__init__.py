"""The migrations of the database, which `upgrade` runs at a start."""

from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, text

from dreadnode_api.db import Database
from dreadnode_api.models import TABLES

METADATA = TABLES
# Any number that no other program uses for its advisory lock.
_LOCK = 0x646E5F6D


class SchemaError(Exception):
    """The schema of the database is of another version; the text is one sentence for a person."""


def configuration(connection: Connection | None = None) -> Config:
    """Return Alembic's configuration, using CONNECTION if there is one."""
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent).replace("%", "%%"))
    config.attributes["connection"] = connection
    return config


async def upgrade(database: Database) -> None:
    """Bring the schema to this version; several processes may do so at the same time.

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
    """Return if the schema is of this version.

    Raises:
        SchemaError: the schema is older or newer.
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
