"""The W3C trace context that a job was asked for in."""

from __future__ import annotations

from alembic import op
from sqlalchemy import Column, String

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add it; no earlier job has one."""
    op.add_column("jobs", Column("traceparent", String))


def downgrade() -> None:
    """Drop it."""
    op.drop_column("jobs", "traceparent")
