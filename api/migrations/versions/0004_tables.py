"""The format of a data set, and the column of a table that is to be predicted."""

from __future__ import annotations

from alembic import op
from sqlalchemy import Column, String

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add them; every earlier data set is of arrays."""
    op.add_column("datasets", Column("format", String, nullable=False, server_default="npz"))
    op.add_column("datasets", Column("target", String))


def downgrade() -> None:
    """Drop them."""
    op.drop_column("datasets", "target")
    op.drop_column("datasets", "format")
