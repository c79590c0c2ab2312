"""Reads the data set of a probe from its file."""

from __future__ import annotations

import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from recommender.answer import Plain
from recommender.errors import RequestError

# Columns of a table hold at most so many numbers, unpacked.
MAX_CELLS = 10**7
TO_PARQUET = "frame.to_parquet(path, index=False)"


def read(data: Plain) -> Plain:
    """The arrays of a data set, as `recommend` takes them.

    Args:
        data: `kind` is "npz" or "parquet", `path` says where, and `target` names the column of a
            table that is to be predicted.

    Returns:
        x, y and validation_data.

    Raises:
        RequestError: The file cannot be read, or holds something other than numbers.
    """
    if data["kind"] == "parquet":
        return _table(Path(data["path"]), data["target"])
    return _arrays(Path(data["path"]))


def _arrays(path: Path) -> Plain:
    try:
        with path.open("rb") as opened, np.load(opened, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
    except (ValueError, OSError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise _unreadable(error, "numpy.savez(path, x=x, y=y)") from error
    held = (arrays["x_val"], arrays["y_val"]) if "x_val" in arrays else None
    return {"x": arrays["x"], "y": arrays["y"], "validation_data": held}


def _table(path: Path, target: str) -> Plain:
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ModuleNotFoundError as error:
        raise RequestError(
            "Parquet files need pyarrow, which is not installed where probes run. Send the data "
            "as .npz or .csv, or install keras-gradopt[parquet].",
            code="file_unreadable",
        ) from error
    try:
        with pq.ParquetFile(path) as file:
            cells = file.metadata.num_rows * file.metadata.num_columns
            # One thread: a jail may allow no more processes.
            table = file.read(use_threads=False) if cells <= MAX_CELLS else None
        if table is None:
            raise _unreadable(
                ValueError(f"it has {cells} cells, more than {MAX_CELLS}"), TO_PARQUET
            )
        columns = {name: _numbers(table.column(name)) for name in table.column_names}
        goal = columns.pop(target)
        with np.errstate(over="ignore"):  # infinite numbers are refused with their place, later
            x = np.column_stack(list(columns.values())).astype(np.float32)
    except (ValueError, OSError, KeyError, pa.ArrowException) as error:
        raise _unreadable(error, TO_PARQUET) from error
    whole = goal.dtype.kind in "iub"
    return {"x": x, "y": goal if whole else goal[:, None], "validation_data": None}


def _numbers(column: Any) -> np.ndarray[Any, Any]:
    """A column's numbers; missing ones are NaN."""
    numbers: np.ndarray[Any, Any] = column.to_numpy()
    if numbers.dtype.kind not in "biuf":
        numbers = numbers.astype(np.float64)  # booleans with holes come as objects
    return numbers


def _unreadable(error: Exception, how: str) -> RequestError:
    said = str(error).splitlines()[0] if str(error) else type(error).__name__
    return RequestError(
        f"the data set cannot be read: {said}. Write it with {how}.", code="file_unreadable"
    )
