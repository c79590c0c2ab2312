"""Uploaded models and data sets: taken in through the gate, found again, and deleted."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, BinaryIO

import sqlalchemy as sa
from sqlalchemy import Connection, Row

from api import gate
from api.caller import Caller
from api.errors import ApiError, not_found
from api.store import Store, datasets, jobs, models, new_id, newest
from api.transitions import LIVE

CHUNK = 2**20
# What is done with a row in the transaction that makes it.
Also = Callable[[Connection, Row[Any]], None] | None


class Library:
    """What callers of one tenant have uploaded.

    Args:
        store: Where it is kept.
        caller: Whose it is.
    """

    def __init__(self, store: Store, caller: Caller) -> None:
        self._store = store
        self._tenant = caller.tenant

    def add_model_archive(self, file: BinaryIO, also: Also = None) -> Row[Any]:
        """Take in a `.keras` file; of it, the architecture is kept.

        Raises:
            Refused: The gate does not let it in.
            ApiError: It is too large.
        """
        with self._spooled(file) as path:
            return self._add_model(gate.check_model_archive(path), path.stat().st_size, also)

    def add_model_config(self, body: bytes, also: Also = None) -> Row[Any]:
        """Take in a model's JSON.

        Raises:
            Refused: The gate does not let it in.
        """
        return self._add_model(gate.check_model_config(gate.parse_json(body)), len(body), also)

    def add_dataset(self, file: BinaryIO, target: str | None = None, also: Also = None) -> Row[Any]:
        """Take in a `.npz`, `.csv` or `.parquet` file.

        Args:
            file: The upload.
            target: In a table, the column to predict; None takes a usual one, else the last.
            also: What is done with its row in the same transaction.

        Raises:
            Refused: The gate does not let it in.
            ApiError: It is too large.
        """
        with self._spooled(file) as path:
            facts = gate.check_dataset(path, target)
            values: dict[str, Any] = {
                "id": new_id("dst"),
                "format": facts.format,
                "target": facts.target,
                "arrays": {
                    name: {"shape": list(one.shape), "dtype": one.dtype}
                    for name, one in facts.arrays.items()
                },
                "sha256": self._store.digest(facts.file),
                "size_bytes": facts.file.stat().st_size,
            }
            return self._add(datasets, values, also, facts.file)

    def model(self, name: str) -> Row[Any]:
        """An uploaded model's row.

        Raises:
            ApiError: There is none.
        """
        return self._one(models, "model", name)

    def dataset(self, name: str) -> Row[Any]:
        """An uploaded data set's row.

        Raises:
            ApiError: There is none.
        """
        return self._one(datasets, "data set", name)

    def models(self, limit: int, before: str | None) -> Sequence[Row[Any]]:
        """Models from the newest on, at most `limit`, older than `before`."""
        with self._store.read() as connection:
            return newest(connection, models, self._tenant, limit, before)

    def datasets(self, limit: int, before: str | None) -> Sequence[Row[Any]]:
        """Data sets from the newest on, at most `limit`, older than `before`."""
        with self._store.read() as connection:
            return newest(connection, datasets, self._tenant, limit, before)

    def delete_model(self, name: str) -> None:
        """Remove a model.

        Raises:
            ApiError: There is none, or a live job uses it.
        """
        with self._store.write() as connection:
            self._remove(connection, models, "model", name)

    def delete_dataset(self, name: str) -> None:
        """Remove a data set; its bytes go where they are nobody else's too.

        Raises:
            ApiError: There is none, or a live job uses it.
        """
        with self._store.write() as connection:
            row = self._remove(connection, datasets, "data set", name)
            self._store.drop_unreferenced(connection, [row.sha256])

    def _remove(self, connection: Connection, table: sa.Table, what: str, name: str) -> Row[Any]:
        row = connection.execute(self._select(table, name)).one_or_none()
        if row is None:
            raise not_found(what, name)
        if connection.scalar(sa.select(in_use(table)).where(table.c.id == name)):
            raise ApiError(
                "conflict_in_use",
                f"A job that has not ended uses the {what} {name!r}. Cancel it or wait for it.",
            )
        connection.execute(table.delete().where(table.c.id == name))
        return row

    def _one(self, table: sa.Table, what: str, name: str) -> Row[Any]:
        with self._store.read() as connection:
            row = connection.execute(self._select(table, name)).one_or_none()
        if row is None:
            raise not_found(what, name)
        return row

    def _select(self, table: sa.Table, name: str) -> sa.Select[Any]:
        return sa.select(table).where(table.c.id == name, table.c.tenant == self._tenant)

    def _add(
        self, table: sa.Table, values: dict[str, Any], also: Also, file: Path | None = None
    ) -> Row[Any]:
        """Insert a row; its file becomes a blob in the same transaction, so none is dropped."""
        self._store.must_have_room()
        now = time.time()
        owned = {
            "tenant": self._tenant,
            "created_at": now,
            "expires_at": self._store.expiry(now),
        }
        with self._store.write(f"add_{table.name}") as connection:
            self._must_fit(connection, values["size_bytes"])
            connection.execute(table.insert().values(**values, **owned))
            row = connection.execute(self._select(table, values["id"])).one()
            if also is not None:
                also(connection, row)
            if file is not None:
                self._store.keep(file, values["sha256"])
        return row

    def _must_fit(self, connection: Connection, size: int) -> None:
        most = self._store.settings.stored_bytes_per_tenant
        for table in (models, datasets):
            query = sa.select(sa.func.sum(table.c.size_bytes))
            size += connection.scalar(query.where(table.c.tenant == self._tenant)) or 0
        if size > most:
            raise ApiError(
                "quota_exceeded",
                f"With this, {size / 2**20:,.0f} MiB of uploads would be kept for you; "
                f"{most / 2**20:,.0f} MiB may be. Delete models or data sets first.",
            )

    def _add_model(self, facts: gate.ModelFacts, size: int, also: Also) -> Row[Any]:
        kept = asdict(facts)
        config = kept.pop("config")
        values: dict[str, Any] = {
            "id": new_id("mdl"),
            "facts": kept,
            "config": config,
            "size_bytes": size,
        }
        return self._add(models, values, also)

    @contextmanager
    def _spooled(self, file: BinaryIO) -> Iterator[Path]:
        """The upload as a file of its own on the disk of the blobs, gone afterwards."""
        most = self._store.settings.max_upload_bytes
        with tempfile.TemporaryDirectory(dir=self._store.settings.scratch) as folder:
            path, size = Path(folder) / "upload", 0
            with path.open("wb") as target:
                while chunk := file.read(CHUNK):
                    size += len(chunk)
                    if size > most:
                        raise ApiError(
                            "body_too_large",
                            f"The file is larger than {most // 2**20} MiB. Upload a part of the "
                            "data: probes need some thousand examples.",
                        )
                    target.write(chunk)
            yield path


def in_use(table: sa.Table) -> sa.ColumnElement[bool]:
    """Whether a live job names a row of `models` or `datasets` in its request."""
    part = "model" if table is models else "data"
    named = jobs.c.request[(part, "id")].as_string() == table.c.id
    return sa.exists().where(named, jobs.c.status.in_(LIVE))
