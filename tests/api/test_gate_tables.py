"""Data sets as csv and Parquet: what NumPy and pyarrow read of them, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from api.gate import DatasetFacts, Refused, check_dataset
from api.gate.limits import MAX_CELLS, MAX_CLASSES

pytestmark = pytest.mark.backend_free

ROWS = 96
INPUTS = np.random.default_rng(0).normal(size=(ROWS, 3)).round(4)


def csv_of(target: list[Any], *, delimiter: str = ",", heading: str = "a,b,c,y") -> bytes:
    rows = [
        delimiter.join([*map(str, row), str(goal)])
        for row, goal in zip(INPUTS, target, strict=True)
    ]
    return "\n".join([heading.replace(",", delimiter), *rows, ""]).encode()


GOOD = csv_of([i % 3 for i in range(ROWS)])


def check(tmp_path: Path, data: bytes, target: str | None = None) -> DatasetFacts:
    path = tmp_path / "upload"
    path.write_bytes(data)
    return check_dataset(path, target)


def refused(tmp_path: Path, data: bytes, target: str | None = None) -> Refused:
    with pytest.raises(Refused) as caught:
        check(tmp_path, data, target)
    return caught.value


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
@pytest.mark.parametrize("begins", [b"", b"\xef\xbb\xbf"])
def test_a_csv_file_becomes_the_arrays_that_numpy_reads(
    tmp_path: Path, delimiter: str, begins: bytes
) -> None:
    data = csv_of([i % 3 for i in range(ROWS)], delimiter=delimiter)
    facts = check(tmp_path, begins + data)
    expected = np.genfromtxt(data.decode().splitlines(), delimiter=delimiter, skip_header=1)
    with np.load(facts.file, allow_pickle=False) as kept:
        np.testing.assert_array_equal(kept["x"], expected[:, :3].astype("float32"))
        np.testing.assert_array_equal(kept["y"], expected[:, 3])
        assert kept["y"].dtype == "int64"
    assert facts.arrays["x"].shape == (ROWS, 3)
    assert (facts.format, facts.target) == ("npz", "y")


@pytest.mark.parametrize(
    ("heading", "asked", "column"),
    [
        ("a,b,c,d", None, 3),
        ("a,target,c,d", None, 1),
        ("label,target,c,d", None, 1),
        ("a,b,c,y", "b", 1),
    ],
)
def test_the_target_is_the_column_that_is_asked_for_else_a_usual_one_else_the_last(
    tmp_path: Path, heading: str, asked: str | None, column: int
) -> None:
    data = csv_of([float(i) / 7 for i in range(ROWS)], heading=heading)
    table = np.genfromtxt(data.decode().splitlines(), delimiter=",", skip_header=1)
    with np.load(check(tmp_path, data, asked).file) as kept:
        np.testing.assert_allclose(kept["y"][:, 0], table[:, column], rtol=1e-6)
        np.testing.assert_allclose(kept["x"], np.delete(table, column, axis=1), rtol=1e-6)


def test_texts_of_the_target_are_classes_in_sorted_order(tmp_path: Path) -> None:
    texts = np.random.default_rng(0).choice(["dog", "ant", "cat"], ROWS).tolist()
    expected = np.unique(texts, return_inverse=True)[1]
    with np.load(check(tmp_path, csv_of(texts)).file) as kept:
        np.testing.assert_array_equal(kept["y"], expected)


def test_many_different_whole_numbers_are_measured_not_classes(tmp_path: Path) -> None:
    prices = [1000 * i for i in range(ROWS)]
    with np.load(check(tmp_path, csv_of(prices)).file) as kept:
        assert kept["y"].dtype == "float32"
        np.testing.assert_array_equal(kept["y"][:, 0], prices)


LINES = GOOD.decode().splitlines()


def with_cell(text: str, row: int = 20, column: int = 1) -> bytes:
    lines = [line.split(",") for line in LINES]
    lines[row - 1][column] = text
    return "\n".join(",".join(cells) for cells in lines).encode()


@pytest.mark.parametrize(
    ("data", "code", "says"),
    [
        (with_cell("much"), "dataset_object_dtype", "'b' has 1 cell of text, the first in row 20"),
        (with_cell("=cmd|'/c calc'!A1"), "dataset_object_dtype", "row 20"),
        (with_cell(""), "dataset_incomplete", "'b' has 1 cell without a finite number"),
        (with_cell("nan"), "dataset_incomplete", "first in row 20"),
        (with_cell("1e400"), "dataset_incomplete", "first in row 20"),
        (with_cell("9" * 400), "dataset_incomplete", "first in row 20"),
        (with_cell("1e39"), "dataset_object_dtype", "32-bit floats in row 20"),
        (with_cell("", column=3), "dataset_incomplete", "'y'"),
        (with_cell("1,2"), "dataset_shape_mismatch", "Row 20 has 5 cells and the heading 4"),
        (with_cell('"1'), "unsupported_type", "breaks off"),
        (with_cell("1" * 200_000), "unsupported_type", "131072 characters"),
        (with_cell("1\0"), "unsupported_type", ".csv"),
        (with_cell("\xe9").decode().encode("latin-1"), "unsupported_type", "UTF-8"),
        ("\n".join(LINES[:5]).encode(), "dataset_shape_mismatch", "4 rows"),
        ("\n".join(LINES[1:]).encode(), "dataset_shape_mismatch", "not names"),
        (b"a,a,y\n" + b"1,2,3\n" * 9, "dataset_shape_mismatch", "'a' twice"),
        (b"a,,y\n" + b"1,2,3\n" * 9, "dataset_shape_mismatch", "empty"),
        (b"y\n" + b"1\n" * 9, "dataset_shape_mismatch", "1 columns"),
        (b"," * 100_000, "dataset_shape_mismatch", "100001 columns"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "unsupported_type", "npz"),
        (b"<!DOCTYPE x [<!ENTITY y SYSTEM 'file:///x'>]>", "unsupported_type", ""),
        (b"{}", "unsupported_type", ""),
        (b"ARROW1\0\0", "unsupported_type", ""),
        (b"", "unsupported_type", "empty"),
        (b"\n\n", "unsupported_type", ""),
    ],
)  # fmt: skip
def test_what_is_no_table_of_numbers_is_refused_with_the_place(
    tmp_path: Path, data: bytes, code: str, says: str
) -> None:
    found = refused(tmp_path, data)
    assert found.code == code
    assert says in found.detail
    assert len(found.detail) < 500


def test_a_text_target_has_at_most_so_many_classes(tmp_path: Path) -> None:
    many = [f"word{i}" for i in range(MAX_CLASSES + 1)]
    data = "a,y\n" + "\n".join(f"1,{word}" for word in many)
    assert refused(tmp_path, data.encode()).code == "dataset_object_dtype"


def test_a_column_that_is_not_there_is_no_target(tmp_path: Path) -> None:
    assert "'a', 'b', 'c', …" in refused(tmp_path, GOOD, "z").detail


def test_more_cells_than_are_read_are_refused(tmp_path: Path) -> None:
    columns = 5_000
    row = b",".join([b"1"] * columns) + b"\n"
    heading = ",".join(f"c{i}" for i in range(columns)).encode() + b"\n"
    data = heading + row * (MAX_CELLS // columns + 1)
    assert refused(tmp_path, data).code == "archive_too_large"


# --- Parquet ---


def parquet(tmp_path: Path, options: dict[str, Any] | None = None, **columns: Any) -> bytes:
    path = tmp_path / "made.parquet"
    pq.write_table(pa.table(columns), path, **(options or {}))
    return path.read_bytes()


NUMBERS = {
    "a": INPUTS[:, 0],
    "b": INPUTS[:, 1].astype("float32"),
    "n": np.arange(ROWS),
    "u": np.arange(ROWS, dtype="uint8"),
    "f": np.arange(ROWS) % 2 == 0,
    "label": (np.arange(ROWS) % 3).astype("int32"),
}


@pytest.mark.parametrize("compression", ["none", "snappy", "zstd", "gzip"])
@pytest.mark.parametrize("version", ["1.0", "2.6"])
def test_a_parquet_file_is_known_by_its_footer(
    tmp_path: Path, compression: str, version: str
) -> None:
    options = {"compression": compression, "row_group_size": 40, "version": version}
    facts = check(tmp_path, parquet(tmp_path, options, **NUMBERS))
    read = pq.read_metadata(facts.file)
    assert facts.arrays["x"].shape == (read.num_rows, read.num_columns - 1)
    assert facts.arrays["y"].shape == (ROWS,)
    assert facts.arrays["y"].dtype == "int32"
    assert (facts.format, facts.target) == ("parquet", "label")
    assert facts.file == tmp_path / "upload", "kept as it came, for the probe process to read"


@pytest.mark.parametrize(
    "column",
    [
        ["x"] * ROWS,
        pa.array(["x"] * ROWS).dictionary_encode(),
        pa.array([0] * ROWS, pa.date32()),
        pa.array([0] * ROWS, pa.timestamp("us")),
        pa.array([1] * ROWS, pa.decimal128(9, 2)),
        [b"x"] * ROWS,
        [[1.0]] * ROWS,
        [{"in": 1.0}] * ROWS,
    ],
)
def test_a_parquet_column_of_something_else_than_numbers_is_refused(
    tmp_path: Path, column: Any
) -> None:
    found = refused(tmp_path, parquet(tmp_path, None, **NUMBERS, odd=column))
    assert found.code in ("dataset_object_dtype", "dataset_shape_mismatch")


def test_a_damaged_footer_is_refused_and_never_an_error(tmp_path: Path) -> None:
    whole = parquet(tmp_path, None, **NUMBERS)
    (length,) = np.frombuffer(whole[-8:-4], "<u4")
    rng = np.random.default_rng(0)
    codes: dict[str, int] = {}
    for _ in range(1500):
        data = bytearray(whole)
        for place in rng.integers(len(data) - int(length) - 8, len(data), rng.integers(1, 5)):
            data[place] = rng.integers(256)
        try:
            check(tmp_path, bytes(data))
            code = "let in"
        except Refused as found:
            code = found.code
        codes[code] = codes.get(code, 0) + 1
    assert codes["archive_suspicious"] > 100
    assert codes.get("let in", 0) > 100, "most of a footer is statistics"


@pytest.mark.parametrize("cut", [0, 4, 11, 40])
def test_a_parquet_file_that_is_cut_is_refused(tmp_path: Path, cut: int) -> None:
    whole = parquet(tmp_path, None, **NUMBERS)
    data = b"PAR1" + whole[-cut:] if cut else whole[:-1]
    assert refused(tmp_path, data).code == "archive_suspicious"


def test_too_few_rows_are_refused(tmp_path: Path) -> None:
    few = {name: column[:3] for name, column in NUMBERS.items()}
    assert refused(tmp_path, parquet(tmp_path, None, **few)).code == "dataset_shape_mismatch"
