"""Reads the data files inside installed packages, without importing the packages."""

from __future__ import annotations

import csv
import gzip
import importlib.util
import io
import sysconfig
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recommender.knowledge.tasks import Data, DataMissing

Array = NDArray[Any]
Table = dict[str, list[str]]

# What tables write where nothing is known.
UNKNOWN = ("", "NA", "NaN", "nan", "?", "None", "null")


def package_file(distribution: str, *parts: str, module: str | None = None) -> Path:
    """A file inside an installed package.

    Data packages are installed without what they depend on, so importing them could fail.

    Args:
        distribution: What pip calls it, for the message.
        parts: The path inside the package.
        module: What Python calls it, where that is something else.

    Raises:
        DataMissing: The package is not installed, or has no such file.
    """
    spec = importlib.util.find_spec(module or distribution)
    if spec is None or not spec.submodule_search_locations:
        raise DataMissing(distribution)
    path = Path(next(iter(spec.submodule_search_locations)), *parts)
    if not path.exists():
        raise DataMissing(distribution, f"is of a version without {'/'.join(parts)}")
    return path


def python_file(*parts: str) -> Path:
    """A file of Python's own library."""
    return Path(sysconfig.get_paths()["stdlib"], *parts)


def text_of(path: Path) -> str:
    """The text of a plain, gzipped or zipped (first member) file."""
    if path.suffix == ".gz":
        return gzip.decompress(path.read_bytes()).decode("utf-8", "replace")
    if path.suffix == ".zip":
        with zipfile.ZipFile(path) as archive:
            return archive.read(archive.namelist()[0]).decode("utf-8", "replace")
    return path.read_text(encoding="utf-8", errors="replace")


def table_of(path: Path, delimiter: str = ",") -> Table:
    """The columns of a CSV file with a heading, as text."""
    rows = csv.reader(io.StringIO(text_of(path)), delimiter=delimiter)
    heading = next(rows)
    columns = zip(*(row for row in rows if len(row) == len(heading)), strict=True)
    return {name: list(column) for name, column in zip(heading, columns, strict=True)}


def numbers(column: Sequence[str]) -> Array:
    """A column as float32, NaN where nothing is known."""
    return np.array([np.nan if v.strip() in UNKNOWN else float(v) for v in column], np.float32)


def codes(column: Sequence[str]) -> Array:
    """A column of words as class numbers in alphabetical order, int32."""
    names = {name: i for i, name in enumerate(sorted(set(column)))}
    return np.array([names[v] for v in column], np.int32)


def one_hot(column: Sequence[str]) -> Array:
    """A column of words as one column of 0 and 1 per word, float32."""
    found = codes(column)
    return np.eye(int(found.max()) + 1, dtype=np.float32)[found]


def split(
    x: Array, y: Array, validation: int, train: int | None = None, *, shuffled: bool = True
) -> Data:
    """Hold out so many rows.

    Args:
        x: All inputs.
        y: Their targets.
        validation: Rows held out.
        train: Rows to train on; None for all the rest.
        shuffled: Whether to draw them; otherwise the last ones are held out, as with time series.
    """
    order = np.random.default_rng(0).permutation(len(x)) if shuffled else np.arange(len(x))[::-1]
    held, kept = order[:validation], order[validation:][:train]
    if not shuffled:
        held, kept = held[::-1], kept[::-1]
    return x[kept], y[kept], x[held], y[held]


def standardised(data: Data, *, target: bool = False) -> Data:
    """Inputs (and a number as target) with mean 0 and deviation 1 on the training rows.

    NaNs stay; constant columns become 0.
    """
    x, y, x_val, y_val = data
    x, x_val = _scaled(x, x, x_val)
    if target:
        y, y_val = _scaled(y, y, y_val)
    return x, y, x_val, y_val


def filled(data: Data) -> Data:
    """Missing inputs become 0, and a column that says so is added for each input that misses some.

    Meant for standardised inputs, where 0 is the mean.
    """
    x, y, x_val, y_val = data
    gaps = np.isnan(x).any(axis=0) | np.isnan(x_val).any(axis=0)

    def fill(values: Array) -> Array:
        marks = np.isnan(values[:, gaps]).astype(np.float32)
        return np.concatenate([np.nan_to_num(values), marks], axis=1).astype(np.float32)

    return fill(x), y, fill(x_val), y_val


def _scaled(by: Array, *arrays: Array) -> list[Array]:
    mean, deviation = np.nanmean(by, axis=0), np.nanstd(by, axis=0)
    deviation = np.where(deviation > 1e-9, deviation, 1.0)
    return [((values - mean) / deviation).astype(np.float32) for values in arrays]
