"""Whether a job's result is what was known when it was ended before its time."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy import Column

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add it; no earlier job has such a result."""
    column = Column("partial", sa.Boolean, nullable=False, server_default=sa.false())
    op.add_column("jobs", column)


def downgrade() -> None:
    """Drop it."""
    op.drop_column("jobs", "partial")
