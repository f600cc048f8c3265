"""Sessions of the web console.

Revision ID: 0014
Revises: 0013
"""

import sqlalchemy as sa
from alembic import op
from dreadnode_api.models.base import UtcDateTime

revision = '0014'
down_revision = '0013'


def upgrade() -> None:
    op.create_table(
        'browser_sessions',
        sa.Column('sha256', sa.String(length=64), nullable=False),
        sa.Column('token_id', sa.String(length=36), nullable=False),
        sa.Column('created_at', UtcDateTime(), nullable=False),
        sa.Column('expires_at', UtcDateTime(), nullable=False),
        sa.ForeignKeyConstraint(['token_id'], ['tokens.id'], name=op.f('fk_browser_sessions_token_id')),
        sa.PrimaryKeyConstraint('sha256', name=op.f('pk_browser_sessions')),
    )
    op.create_index('ix_browser_sessions_expires_at', 'browser_sessions', ['expires_at'])
