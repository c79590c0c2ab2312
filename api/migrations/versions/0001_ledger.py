"""The first tables: models, data sets, jobs with their trials and events, workers."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy import Column, Float, Integer, String

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create them."""
    op.create_table(
        "models",
        Column("id", String, primary_key=True),
        Column("created_at", Float, nullable=False),
        Column("facts", sa.JSON, nullable=False),
        Column("config", sa.JSON, nullable=False),
        Column("size_bytes", Integer, nullable=False),
    )
    op.create_table(
        "datasets",
        Column("id", String, primary_key=True),
        Column("created_at", Float, nullable=False),
        Column("arrays", sa.JSON, nullable=False),
        Column("sha256", String, nullable=False),
        Column("size_bytes", Integer, nullable=False),
    )
    op.create_table(
        "jobs",
        Column("id", String, primary_key=True),
        Column("created_at", Float, nullable=False),
        Column("started_at", Float),
        Column("finished_at", Float),
        Column("status", String, nullable=False),
        Column("reason_code", String),
        Column("reason_detail", String),
        Column("version", Integer, nullable=False),
        Column("last_seq", Integer, nullable=False),
        Column("attempt", Integer, nullable=False),
        Column("fence", Integer, nullable=False),
        Column("worker", String),
        Column("lease_until", Float),
        Column("request", sa.JSON, nullable=False),
        Column("spec", sa.JSON, nullable=False),
        Column("backend", String, nullable=False),
        Column("advice_before", sa.JSON, nullable=False),
        Column("progress", sa.JSON, nullable=False),
        Column("result", sa.JSON),
        Column("usage", sa.JSON),
    )
    op.create_index("ix_jobs_status", "jobs", ["status"])
    op.create_table(
        "trials",
        Column("job_id", String, sa.ForeignKey("jobs.id"), primary_key=True),
        Column("position", Integer, primary_key=True),
        Column("trial", sa.JSON, nullable=False),
    )
    op.create_table(
        "events",
        Column("job_id", String, sa.ForeignKey("jobs.id"), primary_key=True),
        Column("seq", Integer, primary_key=True),
        Column("at", Float, nullable=False),
        Column("type", String, nullable=False),
        Column("data", sa.JSON, nullable=False),
    )
    op.create_table(
        "workers",
        Column("id", String, primary_key=True),
        Column("seen_at", Float, nullable=False),
    )


def downgrade() -> None:
    """Drop them."""
    for name in ("workers", "events", "trials", "jobs", "datasets", "models"):
        op.drop_table(name)
