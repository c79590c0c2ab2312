"""Tenants, expiry, keys, and requests that are done once however often they are sent."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy import Column, Float, Integer, String

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

OWNED = ("models", "datasets", "jobs")


def upgrade() -> None:
    """Add them; what is there belongs to whoever is at this machine, and does not expire."""
    for table in OWNED:
        op.add_column(table, Column("tenant", String, nullable=False, server_default="local"))
        op.add_column(table, Column("expires_at", Float))
        op.create_index(f"ix_{table}_tenant_id", table, ["tenant", "id"])
        op.create_index(f"ix_{table}_expires_at", table, ["expires_at"])
    op.add_column("jobs", Column("key", String))
    op.create_index("ix_datasets_sha256", "datasets", ["sha256"])
    op.create_table(
        "keys",
        Column("id", String, primary_key=True),
        Column("tenant", String, nullable=False),
        Column("name", String, nullable=False),
        Column("scopes", sa.JSON, nullable=False),
        Column("digest", String, nullable=False),
        Column("created_at", Float, nullable=False),
        Column("expires_at", Float),
        Column("last_used_at", Float),
        Column("revoked_at", Float),
    )
    op.create_index("ix_keys_tenant_id", "keys", ["tenant", "id"])
    op.create_table(
        "idempotency",
        Column("tenant", String, primary_key=True),
        Column("key", String, primary_key=True),
        Column("fingerprint", String, nullable=False),
        Column("status", Integer, nullable=False),
        Column("body", String, nullable=False),
        Column("headers", sa.JSON, nullable=False),
        Column("created_at", Float, nullable=False),
    )
    op.create_index("ix_idempotency_created_at", "idempotency", ["created_at"])


def downgrade() -> None:
    """Drop them."""
    op.drop_table("idempotency")
    op.drop_table("keys")
    op.drop_index("ix_datasets_sha256", "datasets")
    op.drop_column("jobs", "key")
    for table in OWNED:
        op.drop_index(f"ix_{table}_expires_at", table)
        op.drop_index(f"ix_{table}_tenant_id", table)
        op.drop_column(table, "expires_at")
        op.drop_column(table, "tenant")
