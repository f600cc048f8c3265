"""Deleted versions of capabilities, and when a blob of the registry was last used.

Revision ID: 0006
Revises: 0005
"""

import sqlalchemy as sa
from alembic import op

revision = '0006'
down_revision = '0005'


def upgrade() -> None:
    op.add_column('capability_versions', sa.Column('config_sha256', sa.String(length=64), nullable=True))
    op.add_column('capability_versions', sa.Column('deleted_at', sa.DateTime(timezone=True), nullable=True))
    op.add_column('registry_blobs', sa.Column('used_at', sa.DateTime(timezone=True), nullable=True))
    op.execute('UPDATE registry_blobs SET used_at = created_at')
    with op.batch_alter_table('registry_blobs') as table:
        table.alter_column('used_at', existing_type=sa.DateTime(timezone=True), nullable=False)
