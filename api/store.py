"""The ledger's tables and connections, and the folder of uploaded files."""

from __future__ import annotations

import hashlib
import secrets
import shutil
import sqlite3
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import alembic.command
import alembic.config
import sqlalchemy as sa
from sqlalchemy import Column, Connection, Float, Index, Integer, Row, String

from api.caller import LOCAL
from api.errors import ApiError
from api.failpoints import reach
from api.settings import Settings

# Crockford's alphabet: no letter looks like a digit.
ALPHABET = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
BUSY_MILLISECONDS = 5000
# Less than this share of the disk free: nothing more is taken in.
LEAST_FREE = 0.02

metadata = sa.MetaData()
models = sa.Table(
    "models",
    metadata,
    Column("id", String, primary_key=True),
    Column("tenant", String, nullable=False, server_default=LOCAL),
    Column("created_at", Float, nullable=False),
    Column("expires_at", Float),
    Column("facts", sa.JSON, nullable=False),
    Column("config", sa.JSON, nullable=False),
    Column("size_bytes", Integer, nullable=False),
    Index("ix_models_tenant_id", "tenant", "id"),
    Index("ix_models_expires_at", "expires_at"),
)
datasets = sa.Table(
    "datasets",
    metadata,
    Column("id", String, primary_key=True),
    Column("tenant", String, nullable=False, server_default=LOCAL),
    Column("created_at", Float, nullable=False),
    Column("expires_at", Float),
    Column("arrays", sa.JSON, nullable=False),
    Column("format", String, nullable=False, server_default="npz"),
    Column("target", String),
    Column("sha256", String, nullable=False),
    Column("size_bytes", Integer, nullable=False),
    Index("ix_datasets_tenant_id", "tenant", "id"),
    Index("ix_datasets_expires_at", "expires_at"),
    Index("ix_datasets_sha256", "sha256"),
)
jobs = sa.Table(
    "jobs",
    metadata,
    Column("id", String, primary_key=True),
    Column("tenant", String, nullable=False, server_default=LOCAL),
    Column("created_at", Float, nullable=False),
    Column("expires_at", Float),
    Column("key", String),
    Column("traceparent", String),
    Column("started_at", Float),
    Column("finished_at", Float),
    Column("status", String, nullable=False, index=True),
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
    # Whether the result is what was known when the job was ended before its time.
    Column("partial", sa.Boolean, nullable=False, server_default=sa.false()),
    Column("usage", sa.JSON),
    Index("ix_jobs_tenant_id", "tenant", "id"),
    Index("ix_jobs_expires_at", "expires_at"),
)
trials = sa.Table(
    "trials",
    metadata,
    Column("job_id", String, sa.ForeignKey("jobs.id"), primary_key=True),
    Column("position", Integer, primary_key=True),
    Column("trial", sa.JSON, nullable=False),
)
events = sa.Table(
    "events",
    metadata,
    Column("job_id", String, sa.ForeignKey("jobs.id"), primary_key=True),
    Column("seq", Integer, primary_key=True),
    Column("at", Float, nullable=False),
    Column("type", String, nullable=False),
    Column("data", sa.JSON, nullable=False),
)
workers = sa.Table(
    "workers",
    metadata,
    Column("id", String, primary_key=True),
    Column("seen_at", Float, nullable=False),
)
keys = sa.Table(
    "keys",
    metadata,
    Column("id", String, primary_key=True),
    Column("tenant", String, nullable=False),
    Column("name", String, nullable=False),
    Column("scopes", sa.JSON, nullable=False),
    Column("digest", String, nullable=False),
    Column("created_at", Float, nullable=False),
    Column("expires_at", Float),
    Column("last_used_at", Float),
    Column("revoked_at", Float),
    Index("ix_keys_tenant_id", "tenant", "id"),
)
idempotency = sa.Table(
    "idempotency",
    metadata,
    Column("tenant", String, primary_key=True),
    Column("key", String, primary_key=True),
    Column("fingerprint", String, nullable=False),
    Column("status", Integer, nullable=False),
    Column("body", String, nullable=False),
    Column("headers", sa.JSON, nullable=False),
    Column("created_at", Float, nullable=False),
    Index("ix_idempotency_created_at", "created_at"),
)


def new_id(prefix: str) -> str:
    """A fresh id: the prefix and a ULID, which sorts by time."""
    number = (time.time_ns() // 10**6 << 80) | secrets.randbits(80)
    return f"{prefix}_" + "".join(ALPHABET[number >> 5 * i & 31] for i in reversed(range(26)))


def newest(
    connection: Connection,
    table: sa.Table,
    tenant: str,
    limit: int,
    before: str | None,
    *where: sa.ColumnElement[bool],
) -> Sequence[Row[Any]]:
    """A tenant's rows from the newest on: ids sort by time.

    Args:
        connection: Where to look.
        table: Of which table.
        tenant: Whose.
        limit: At most so many.
        before: Only rows older than the one of this id.
        where: What else must hold.
    """
    query = sa.select(table).where(table.c.tenant == tenant, *where)
    if before is not None:
        query = query.where(table.c.id < before)
    return connection.execute(query.order_by(table.c.id.desc()).limit(limit)).all()


class Store:
    """One SQLite file in WAL mode and a folder of files.

    Every write is one `BEGIN IMMEDIATE` transaction, so guards and what they guard are one step.

    Args:
        settings: Where it is; folders are made if missing.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        for folder in (settings.data_dir, settings.blobs, settings.scratch):
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._writer = _engine(settings.database_url, "BEGIN IMMEDIATE")
        self._reader = _engine(settings.database_url, "BEGIN")

    @contextmanager
    def write(self, step: str = "write") -> Iterator[Connection]:
        """A transaction that writes.

        Args:
            step: What it is for; tests kill this process before and after its commit.
        """
        with self._writer.begin() as connection:
            yield connection
            reach(f"{step}.before_commit")
        reach(f"{step}.after_commit")

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """A transaction that sees one state of the ledger."""
        with self._reader.begin() as connection:
            yield connection

    def migrate(self) -> None:
        """Bring the tables to the newest version; a second process waits and finds it done."""
        with self._writer.begin() as connection:
            config = alembic.config.Config()
            config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
            config.attributes["connection"] = connection
            alembic.command.upgrade(config, "head")

    @staticmethod
    def digest(file: Path) -> str:
        """The SHA-256 of a file."""
        with file.open("rb") as opened:
            return hashlib.file_digest(opened, "sha256").hexdigest()

    def keep(self, file: Path, digest: str) -> None:
        """Move a file into the folder of uploads, in the transaction that refers to it.

        Args:
            file: On the same disk.
            digest: Its SHA-256, by which `blob` finds it.
        """
        target = self.blob(digest)
        target.parent.mkdir(exist_ok=True, mode=0o700)
        reach("keep.before_replace")
        file.replace(target)
        reach("keep.after_replace")

    def drop_unreferenced(self, connection: Connection, digests: Sequence[str]) -> None:
        """Erase those uploaded files that no data set has.

        Args:
            connection: A transaction that writes, so nobody takes one of them in meanwhile.
            digests: Of which files.
        """
        for digest in digests:
            query = sa.select(datasets.c.id).where(datasets.c.sha256 == digest).limit(1)
            if connection.scalar(query) is None:
                self.blob(digest).unlink(missing_ok=True)

    def blob(self, digest: str) -> Path:
        """Where a kept file lies."""
        return self.settings.blobs / digest[:2] / digest

    def intact(self, digest: str) -> bool:
        """Whether a kept file is there, and is still what was kept."""
        try:
            return self.digest(self.blob(digest)) == digest
        except OSError:
            return False

    def expiry(self, now: float) -> float | None:
        """When what is made at this time expires; None where nothing does."""
        days = self.settings.keep_days
        return now + days * 86400 if days else None

    def must_have_room(self) -> None:
        """Refuse to take more in where the disk is nearly full.

        Raises:
            ApiError: It is.
        """
        if self.free_share() < LEAST_FREE:
            raise ApiError(
                "storage_full",
                f"Less than {LEAST_FREE:.0%} of the service's disk is free, so it takes nothing "
                "more in. Delete what is no longer needed, or tell its administrator.",
            )

    def free_share(self) -> float:
        """The share of the disk that is free."""
        usage = shutil.disk_usage(self.settings.data_dir)
        return usage.free / usage.total

    def close(self) -> None:
        """Close all connections."""
        self._writer.dispose()
        self._reader.dispose()


def _engine(url: str, begin: str) -> sa.Engine:
    # What was being written may be a caller's data: it has no place in messages and logs.
    engine = sa.create_engine(url, hide_parameters=True)

    @sa.event.listens_for(engine, "connect")
    def configure(connection: sqlite3.Connection, _: Any) -> None:
        connection.isolation_level = (
            None  # transactions begin where we say so, not where it guesses
        )
        connection.execute(f"PRAGMA busy_timeout={BUSY_MILLISECONDS}")
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=FULL")
        connection.execute("PRAGMA foreign_keys=ON")

    @sa.event.listens_for(engine, "begin")
    def start(connection: Connection) -> None:
        connection.exec_driver_sql(begin)

    return engine
