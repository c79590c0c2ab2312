"""Uploaded models and data sets: taken in through the gate, and found again."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, BinaryIO

import sqlalchemy as sa
from sqlalchemy import Row

from api import gate
from api.errors import ApiError, not_found
from api.store import Store, datasets, models, new_id

CHUNK = 2**20


class Library:
    """What callers have uploaded.

    Args:
        store: Where it is kept.
    """

    def __init__(self, store: Store) -> None:
        self._store = store

    def add_model_archive(self, file: BinaryIO) -> Row[Any]:
        """Take in a `.keras` file; of it, the architecture is kept.

        Raises:
            Refused: The gate does not let it in.
            ApiError: It is too large.
        """
        with self._spooled(file) as path:
            return self._add_model(gate.check_model_archive(path), path.stat().st_size)

    def add_model_config(self, body: bytes) -> Row[Any]:
        """Take in a model's JSON.

        Raises:
            Refused: The gate does not let it in.
        """
        return self._add_model(gate.check_model_config(gate.parse_json(body)), len(body))

    def add_dataset(self, file: BinaryIO) -> Row[Any]:
        """Take in a `.npz` file.

        Raises:
            Refused: The gate does not let it in.
            ApiError: It is too large.
        """
        with self._spooled(file) as path:
            arrays = {
                name: {"shape": list(one.shape), "dtype": one.dtype}
                for name, one in gate.check_npz(path).items()
            }
            size = path.stat().st_size
            digest = self._store.keep(path)
        values: dict[str, Any] = {
            "id": new_id("dst"),
            "created_at": time.time(),
            "arrays": arrays,
            "sha256": digest,
            "size_bytes": size,
        }
        with self._store.write("add_dataset") as connection:
            connection.execute(datasets.insert().values(**values))
        return self.dataset(values["id"])

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

    def _one(self, table: sa.Table, what: str, name: str) -> Row[Any]:
        with self._store.read() as connection:
            row = connection.execute(sa.select(table).where(table.c.id == name)).one_or_none()
        if row is None:
            raise not_found(what, name)
        return row

    def _add_model(self, facts: gate.ModelFacts, size: int) -> Row[Any]:
        kept = asdict(facts)
        config = kept.pop("config")
        values: dict[str, Any] = {
            "id": new_id("mdl"),
            "created_at": time.time(),
            "facts": kept,
            "config": config,
            "size_bytes": size,
        }
        with self._store.write("add_model") as connection:
            connection.execute(models.insert().values(**values))
        return self.model(values["id"])

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
