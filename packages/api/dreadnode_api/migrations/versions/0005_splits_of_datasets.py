"""Splits of datasets: what there is becomes `train`.

Revision ID: 0005
Revises: 0004
"""

import sqlalchemy as sa
from alembic import op

revision = '0005'
down_revision = '0004'


def upgrade() -> None:
    op.create_table('dataset_splits',
    sa.Column('version_id', sa.String(length=36), nullable=False),
    sa.Column('name', sa.String(length=64), nullable=False),
    sa.Column('position', sa.Integer(), nullable=False),
    sa.Column('format', sa.String(length=16), nullable=False),
    sa.Column('rows', sa.BigInteger(), nullable=False),
    sa.Column('bytes', sa.BigInteger(), nullable=False),
    sa.Column('sha256', sa.String(length=64), nullable=False),
    sa.Column('content_bytes', sa.BigInteger(), nullable=False),
    sa.Column('content_sha256', sa.String(length=64), nullable=False),
    sa.ForeignKeyConstraint(['version_id'], ['dataset_versions.id'], name=op.f('fk_dataset_splits_version_id')),
    sa.PrimaryKeyConstraint('version_id', 'name', name=op.f('pk_dataset_splits'))
    )
    columns = 'version_id, name, position, format, rows, bytes, sha256, content_bytes, content_sha256'
    op.execute(
        f"INSERT INTO dataset_splits ({columns}) "
        "SELECT id, 'train', 0, format, rows, bytes, sha256, bytes, sha256 FROM dataset_versions"
    )
