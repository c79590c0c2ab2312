"""The files of data sets, as a probe process reads them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from recommender.errors import RequestError
from recommender.executors.tables import MAX_CELLS, read

pytestmark = pytest.mark.backend_free

A = np.linspace(0, 1, 30)
B = np.arange(30)


def parquet(tmp_path: Path, target: str, **columns: Any) -> dict[str, Any]:
    path = tmp_path / "table.parquet"
    pq.write_table(pa.table(columns), path)
    return read({"kind": "parquet", "path": str(path), "target": target})


def test_the_target_of_a_table_is_y_and_the_rest_is_x(tmp_path: Path) -> None:
    found = parquet(tmp_path, "b", a=A, b=B, c=B % 2 == 0)
    np.testing.assert_array_equal(found["x"], np.stack([A, B % 2 == 0], 1).astype("float32"))
    np.testing.assert_array_equal(found["y"], B)
    found = parquet(tmp_path, "a", a=A, b=B, c=B % 2 == 0)
    np.testing.assert_array_equal(found["y"], A[:, None])


def test_missing_numbers_of_a_table_are_nan(tmp_path: Path) -> None:
    holes = pa.array([None if i == 7 else i for i in range(30)])
    flags = pa.array([None if i == 9 else i % 2 == 0 for i in range(30)])
    found = parquet(tmp_path, "b", a=holes, b=B, c=flags)
    assert np.argwhere(np.isnan(found["x"])).tolist() == [[7, 0], [9, 1]]


def test_a_damaged_table_is_a_reason_and_no_crash(tmp_path: Path) -> None:
    path = tmp_path / "table.parquet"
    pq.write_table(pa.table({"a": A, "b": B}), path)
    whole = path.read_bytes()
    rng = np.random.default_rng(0)
    said = []
    for _ in range(200):
        damaged = bytearray(whole)
        for place in rng.integers(len(whole), size=5):
            damaged[place] = rng.integers(256)
        path.write_bytes(damaged)
        try:
            read({"kind": "parquet", "path": str(path), "target": "b"})
        except RequestError as error:
            said.append(error.code)
    assert len(said) > 50
    assert set(said) == {"file_unreadable"}


def test_a_table_that_unpacks_to_too_much_is_not_read(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="more than"):
        parquet(tmp_path, "b", a=np.zeros(MAX_CELLS // 2 + 1), b=np.zeros(MAX_CELLS // 2 + 1))


def test_arrays_are_read_as_they_are(tmp_path: Path) -> None:
    path = tmp_path / "some.npz"
    np.savez(path, x=A, y=B, x_val=A[:3], y_val=B[:3])
    found = read({"kind": "npz", "path": str(path), "target": None})
    np.testing.assert_array_equal(found["validation_data"][0], A[:3])
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(RequestError, match="cannot be read"):
        read({"kind": "npz", "path": str(path), "target": None})
