"""What Alembic runs: the connection comes from `dreadnode_api.migrations`, which opened it."""

from alembic import context

from dreadnode_api.migrations import METADATA

connection = context.config.attributes["connection"]
# SQLite changes a table by copying it, which batch mode writes out.
context.configure(connection=connection, target_metadata=METADATA, render_as_batch=True)
with context.begin_transaction():
    context.run_migrations()
