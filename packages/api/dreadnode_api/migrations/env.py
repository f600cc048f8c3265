"""The script that Alembic runs, on the connection that `dreadnode_api.migrations` opened."""

from alembic import context

from dreadnode_api.migrations import METADATA

connection = context.config.attributes["connection"]
# SQLite changes a table by copying it, which is what batch mode does.
context.configure(connection=connection, target_metadata=METADATA, render_as_batch=True)
with context.begin_transaction():
    context.run_migrations()
