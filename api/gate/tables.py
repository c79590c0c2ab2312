"""The check of a data set in a csv file, which is written anew as arrays."""

from __future__ import annotations

import array
import csv
import math
import sys
import zipfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from api.gate.arrays import check_npz
from api.gate.limits import (
    ECHO,
    MAX_CELLS,
    MAX_CLASSES,
    MAX_COLUMNS,
    MAX_CSV_BYTES,
    MIN_ROWS,
    NAME_LENGTH,
)
from api.gate.records import ArrayFacts, Refused
from api.gate.refusals import ADVISE, mismatch, quote
from api.gate.targets import target_of

DELIMITERS = ",;\t"
MISSING = frozenset({"", "na", "n/a", "nan", "null", "none", "?"})
# Whole numbers are classes where each stands for so many rows on average.
ROWS_PER_CLASS = 8


@dataclass
class Column:
    """What was read of one column.

    Attributes:
        name: Its heading.
        numbers: One for each row; NaN where the cell holds none.
        texts: The cells of a target column as they stand, while one of them is no number.
        wrong: Cells that hold text.
        first: Line and text of the first of them.
        missing: Cells that hold nothing.
        hole: Line of the first of them.
    """

    name: str
    numbers: array.array[float] = field(default_factory=lambda: array.array("d"))
    texts: list[str] = field(default_factory=list)
    wrong: int = 0
    first: tuple[int, str] = (0, "")
    missing: int = 0
    hole: int = 0

    def take(self, text: str, line: int) -> None:
        """Read one cell."""
        try:
            number = float(text)
        except ValueError:
            number = math.nan
            if text.strip().lower() not in MISSING:
                if not self.wrong:
                    self.first = line, text
                self.wrong += 1
        if not math.isfinite(number):
            number = math.nan
            if not self.missing:
                self.hole = line
            self.missing += 1
        self.numbers.append(number)


def rewrite_csv(path: Path, into: Path, target: str | None) -> tuple[dict[str, ArrayFacts], str]:
    """Check a csv file of numbers, and write it as `numpy.savez` would.

    The first line names the columns. All columns but the target become x, one row for each line.
    A target of few different whole numbers or texts is one of classes, texts in sorted order.
    UTF-8, with commas, semicolons or tabs.

    Args:
        path: The upload on disk; its name means nothing.
        into: Where the arrays are written.
        target: The column to predict; None takes y, target or label, else the last one.

    Returns:
        Facts of x and y, as from `check_npz`, and the name of the target.

    Raises:
        Refused: When it is too large, no csv, or holds something other than numbers.
    """
    size = path.stat().st_size
    if size > MAX_CSV_BYTES:
        raise Refused(
            "archive_too_large",
            f"The csv file has {size} bytes; at most {MAX_CSV_BYTES} are read. Send a part of the "
            f"rows, or the numbers as .npz, {ADVISE}.",
        )
    columns, aim = _read(path, target)
    rows = len(columns[0].numbers)
    if rows < MIN_ROWS:
        raise mismatch(
            f"The file has {rows} rows of data; at least {MIN_ROWS} are needed. Send more examples."
        )
    goal = columns.pop(aim)
    classes = _classes(goal) if goal.wrong else None
    for column in [*columns, *([] if classes else [goal])]:
        _must_be_numbers(column)
    labels = [float(classes[text]) for text in goal.texts] if classes else list(goal.numbers)
    inputs = array.array("f", bytes(4 * rows * len(columns)))
    for position, column in enumerate(columns):
        inputs[position :: len(columns)] = array.array("f", column.numbers)
    _must_fit_floats(inputs, columns)
    with zipfile.ZipFile(into, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr("x.npy", _npy("<f4", (rows, len(columns)), inputs))
        archive.writestr("y.npy", _targets(labels))
    return check_npz(into), goal.name


def _read(path: Path, target: str | None) -> tuple[list[Column], int]:
    """The columns, and which of them is the target."""
    with _opened(path) as lines:
        names = [name.strip() for name in next(lines, [])]
        aim = target_of(_checked(names), target)
        columns = [Column(name) for name in names]
        most = MAX_CELLS // len(names)
        for number, cells in enumerate(lines, 2):
            if not cells:
                continue  # an empty line
            if len(cells) != len(names):
                raise mismatch(
                    f"Row {number} has {len(cells)} cells and the heading {len(names)}; they must "
                    "be equal. Quote cells that hold the delimiter, and close every quote."
                )
            if len(columns[0].numbers) >= most:
                raise Refused(
                    "archive_too_large",
                    f"The file has more than {MAX_CELLS} cells, which is the limit. Send a part of "
                    f"the rows, {ADVISE}.",
                )
            for column, text in zip(columns, cells, strict=True):
                column.take(text, number)
            columns[aim].texts.append(cells[aim])
    return columns, aim


@contextmanager
def _opened(path: Path) -> Iterator[Iterator[list[str]]]:
    """The lines of a csv file, cell by cell."""
    with path.open("rb") as binary:
        head = binary.read(4096)
    delimiter = max(DELIMITERS, key=head.partition(b"\n")[0].decode("latin-1").count)
    try:
        with path.open(encoding="utf-8-sig", newline="") as text:
            yield csv.reader(text, delimiter=delimiter, strict=True)
    except UnicodeDecodeError as error:
        raise _unreadable("is not UTF-8") from error
    except csv.Error as error:
        longest = csv.field_size_limit()
        raise _unreadable(f"breaks off or has a cell of more than {longest} characters") from error


def _unreadable(what: str) -> Refused:
    return Refused(
        "unsupported_type",
        f"The csv file {what}. UTF-8 text with one heading and rows of numbers is expected. Write "
        "it again, for instance with pandas: frame.to_csv(path, index=False).",
    )


def _checked(names: list[str]) -> list[str]:
    """The heading, once it is one."""
    if not 2 <= len(names) <= MAX_COLUMNS:
        raise mismatch(
            f"The heading has {len(names)} columns; 2 to {MAX_COLUMNS} are read: inputs and one "
            "target. Name them in the first line, with commas between."
        )
    twice = [name for name, number in Counter(names).items() if number > 1]
    if twice or not all(0 < len(name) <= NAME_LENGTH for name in names):
        wrong = f"names {quote(twice[0])} twice" if twice else "has an empty or overlong name"
        raise mismatch(f"The heading {wrong}. Give each column a name of its own.")
    if all(_is_number(name) for name in names):
        raise mismatch(
            "The first line holds numbers, not names. Name the columns there: frame.to_csv writes "
            "it so."
        )
    return names


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _classes(goal: Column) -> dict[str, int]:
    """The numbers of a target's texts."""
    names = sorted(set(goal.texts))
    if len(names) > MAX_CLASSES:
        line, text = goal.first
        raise Refused(
            "dataset_object_dtype",
            f"The target {quote(goal.name)} holds {len(names)} different texts, the first in row "
            f"{line}: {quote(text)}; at most {MAX_CLASSES} are taken for classes. Write numbers, "
            "or name another column as the target.",
        )
    if any(name.strip().lower() in MISSING for name in names):
        raise _holes(goal)
    return {name: number for number, name in enumerate(names)}


def _must_be_numbers(column: Column) -> None:
    if column.wrong:
        line, text = column.first
        raise Refused(
            "dataset_object_dtype",
            f"Column {quote(column.name)} has {_cells(column.wrong)} of text, the first in row "
            f"{line}: {quote(text[:ECHO])}. Only numbers are read: encode categories first, or "
            "leave the column out.",
        )
    if column.missing:
        raise _holes(column)


def _holes(column: Column) -> Refused:
    return Refused(
        "dataset_incomplete",
        f"Column {quote(column.name)} has {_cells(column.missing)} without a finite number, the "
        f"first in row {column.hole}. Fill them in, for instance with the column's mean, or leave "
        "those rows out.",
    )


def _cells(number: int) -> str:
    return f"{number} cell" + "s" * (number != 1)


def _must_fit_floats(inputs: array.array[float], columns: list[Column]) -> None:
    """Refuse numbers that become infinite in 32 bits."""
    for position, number in enumerate(inputs):
        if math.isinf(number):
            name = columns[position % len(columns)].name
            raise Refused(
                "dataset_object_dtype",
                f"Column {quote(name)} has a number beyond the range of 32-bit floats in row "
                f"{position // len(columns) + 2}. Scale the column.",
            )


def _targets(labels: list[float]) -> bytes:
    """Targets as an array: few different whole numbers are classes, others are measured."""
    different = set(labels)
    few = len(different) <= min(MAX_CLASSES, len(labels) / ROWS_PER_CLASS)
    if few and all(label.is_integer() and label >= 0 for label in different):
        return _npy("<i8", (len(labels),), array.array("q", map(int, labels)))
    return _npy("<f4", (len(labels), 1), array.array("f", labels))


def _npy(
    descr: str, shape: tuple[int, ...], numbers: array.array[float] | array.array[int]
) -> bytes:
    """An array as NumPy's format 1.0 has it."""
    if sys.byteorder == "big":
        numbers.byteswap()
    text = f"{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, }}"
    header = text.encode() + b" " * (-(len(text) + 11) % 64) + b"\n"
    return b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + numbers.tobytes()
