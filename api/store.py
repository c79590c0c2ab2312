"""The ledger's tables and connections, and the folder of uploaded files."""

from __future__ import annotations

import hashlib
import secrets
import shutil
import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import alembic.command
import alembic.config
import sqlalchemy as sa
from sqlalchemy import Column, Connection, Float, Integer, String

from api.failpoints import reach
from api.settings import Settings

# Crockford's alphabet: no letter looks like a digit.
ALPHABET = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
BUSY_MILLISECONDS = 5000

metadata = sa.MetaData()
models = sa.Table(
    "models",
    metadata,
    Column("id", String, primary_key=True),
    Column("created_at", Float, nullable=False),
    Column("facts", sa.JSON, nullable=False),
    Column("config", sa.JSON, nullable=False),
    Column("size_bytes", Integer, nullable=False),
)
datasets = sa.Table(
    "datasets",
    metadata,
    Column("id", String, primary_key=True),
    Column("created_at", Float, nullable=False),
    Column("arrays", sa.JSON, nullable=False),
    Column("sha256", String, nullable=False),
    Column("size_bytes", Integer, nullable=False),
)
jobs = sa.Table(
    "jobs",
    metadata,
    Column("id", String, primary_key=True),
    Column("created_at", Float, nullable=False),
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


def new_id(prefix: str) -> str:
    """A fresh id: the prefix and a ULID, which sorts by time."""
    number = (time.time_ns() // 10**6 << 80) | secrets.randbits(80)
    return f"{prefix}_" + "".join(ALPHABET[number >> 5 * i & 31] for i in reversed(range(26)))


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

    def keep(self, file: Path) -> str:
        """Move a file into the folder of uploads.

        Args:
            file: On the same disk.

        Returns:
            Its SHA-256, by which `blob` finds it.
        """
        with file.open("rb") as opened:
            digest = hashlib.file_digest(opened, "sha256").hexdigest()
        target = self.blob(digest)
        target.parent.mkdir(exist_ok=True, mode=0o700)
        reach("keep.before_replace")
        file.replace(target)
        reach("keep.after_replace")
        return digest

    def blob(self, digest: str) -> Path:
        """Where a kept file lies."""
        return self.settings.blobs / digest[:2] / digest

    def free_share(self) -> float:
        """The share of the disk that is free."""
        usage = shutil.disk_usage(self.settings.data_dir)
        return usage.free / usage.total

    def close(self) -> None:
        """Close all connections."""
        self._writer.dispose()
        self._reader.dispose()


def _engine(url: str, begin: str) -> sa.Engine:
    engine = sa.create_engine(url)

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
