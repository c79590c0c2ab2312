"""The check of a data set in a Parquet file, by its footer."""

from __future__ import annotations

import os
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from api.gate.limits import (
    MAX_CELLS,
    MAX_COLUMNS,
    MAX_DEPTH,
    MAX_FOOTER_BYTES,
    MAX_NODES,
    MAX_UPLOAD_BYTES,
    MIN_ROWS,
    NAME_LENGTH,
)
from api.gate.records import ArrayFacts, Refused
from api.gate.refusals import ADVISE, mismatch, quote
from api.gate.targets import target_of

MAGIC = b"PAR1"
# Physical types of numbers, by their number in the format, with bytes of one.
NUMBERS = {0: ("bool", 1), 1: ("int32", 4), 2: ("int64", 8), 4: ("float32", 4), 5: ("float64", 8)}
REPEATED = 2


def check_parquet(path: Path, target: str | None) -> tuple[dict[str, ArrayFacts], str]:
    """Check a Parquet file of plain columns of numbers by its footer; no column is read.

    Args:
        path: The upload on disk; its name means nothing.
        target: The column to predict; None takes y, target or label, else the last one.

    Returns:
        Facts of x (all columns but the target, as float32) and y, and the target's name.

    Raises:
        Refused: When it is too large, no Parquet file, or holds something other than numbers.
    """
    footer = _footer(path)
    try:
        names, rows, types = _columns(footer)
    except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
        raise _unreadable("has a footer without the fields of a table") from error
    if rows < MIN_ROWS:
        raise mismatch(
            f"The file has {rows} rows; at least {MIN_ROWS} are needed. Send more examples."
        )
    if rows * len(names) > MAX_CELLS:
        raise Refused(
            "archive_too_large",
            f"The file says that it has {rows} rows of {len(names)} columns; at most {MAX_CELLS} "
            f"cells are read. Send a part of the rows, {ADVISE}.",
        )
    aim = target_of(names, target)
    dtype, width = types[aim]
    columns = len(names) - 1
    return {
        "x": ArrayFacts((rows, columns), "float32", 4 * rows * columns),
        "y": ArrayFacts((rows,), dtype, width * rows),
    }, names[aim]


def _footer(path: Path) -> dict[int, Any]:
    """The footer's fields by their numbers."""
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        file.seek(max(0, size - 8))
        tail = file.read(8)
        if size < 12 or len(tail) < 8 or tail[4:] != MAGIC:
            raise _unreadable("is cut short, encrypted, or data follow its end")
        if size > MAX_UPLOAD_BYTES:
            raise Refused(
                "archive_too_large",
                f"The file has {size} bytes; at most {MAX_UPLOAD_BYTES} are read. Send less.",
            )
        (length,) = struct.unpack("<I", tail[:4])
        if length > min(size - 12, MAX_FOOTER_BYTES):
            raise _unreadable(f"claims a footer of {length} bytes")
        file.seek(size - 8 - length)
        data = file.read(length)
    try:
        return Thrift(data).struct(0)
    except (IndexError, struct.error, OverflowError, UnicodeDecodeError) as error:
        raise _unreadable("has a footer that breaks off") from error


def _columns(footer: dict[int, Any]) -> tuple[list[str], int, list[tuple[str, int]]]:
    """Names, rows and types of a flat table of numbers."""
    root, *leaves = footer[2]
    rows = footer[3]
    if not 2 <= len(leaves) <= MAX_COLUMNS or root.get(5) != len(leaves):
        raise mismatch(
            f"The file has {len(leaves)} columns, or columns inside columns; 2 to {MAX_COLUMNS} "
            "plain ones are read: inputs and one target. Write a flat table."
        )
    names = [leaf[4].decode("utf-8") for leaf in leaves]
    if len(set(names)) < len(names) or not all(0 < len(name) <= NAME_LENGTH for name in names):
        raise mismatch("Two columns have one name, or a name is empty or overlong. Rename them.")
    for name, leaf in zip(names, leaves, strict=True):
        # Dates, times and decimals are numbers with a meaning of their own (fields 6 and 10).
        plain = leaf.get(6) in (None, *range(11, 19)) and 5 not in leaf
        if leaf.get(1) not in NUMBERS or leaf.get(3) == REPEATED or not plain:
            raise Refused(
                "dataset_object_dtype",
                f"Column {quote(name)} holds something other than plain numbers. Only booleans, "
                "integers and floats are read: encode text, dates and categories first, or leave "
                "the column out.",
            )
    counted = sum(group[3] for group in footer[4])
    if type(rows) is not int or rows != counted or rows < 0:
        raise _unreadable("claims another number of rows than its parts")
    return names, rows, [NUMBERS[leaf[1]] for leaf in leaves]


def _unreadable(what: str) -> Refused:
    return Refused(
        "archive_suspicious",
        f"The Parquet file {what}. A plain file of columns of numbers is expected. Write it again, "
        "for instance with pandas: frame.to_parquet(path, index=False).",
    )


@dataclass
class Thrift:
    """Reads Thrift's compact protocol, of which a footer is one struct, within limits.

    Attributes:
        data: The bytes.
        at: The next of them.
        nodes: Values read so far.
    """

    data: bytes
    at: int = 0
    nodes: int = 0

    def byte(self) -> int:
        """One byte."""
        found = self.data[self.at]
        self.at += 1
        return found

    def varint(self) -> int:
        """A whole number of at most 64 bits, seven in a byte."""
        found = 0
        for shift in range(0, 70, 7):
            one = self.byte()
            found |= (one & 0x7F) << shift
            if one < 0x80:
                return found
        raise _unreadable("has an endless number in its footer")

    def zigzag(self) -> int:
        """A signed whole number."""
        found = self.varint()
        return (found >> 1) ^ -(found & 1)

    def binary(self) -> bytes:
        """Bytes with their length before them."""
        length = self.varint()
        if length > len(self.data) - self.at:
            raise _unreadable("has a footer that breaks off")
        self.at += length
        return self.data[self.at - length : self.at]

    def struct(self, depth: int) -> dict[int, Any]:
        """Fields by their numbers."""
        self._bound(depth)
        found: dict[int, Any] = {}
        number = 0
        while head := self.byte():
            kind, step = head & 0x0F, head >> 4
            number = number + step if step else self.zigzag()
            found[number] = kind == 1 if kind in (1, 2) else self.value(kind, depth + 1)
        return found

    def value(self, kind: int, depth: int) -> Any:
        """One value of a kind that the protocol numbers so."""
        self._bound(depth)
        kinds: dict[int, Callable[[], Any]] = {
            1: lambda: self.byte() == 1,
            2: lambda: self.byte() == 1,
            3: self.byte,
            4: self.zigzag,
            5: self.zigzag,
            6: self.zigzag,
            7: self.double,
            8: self.binary,
            9: lambda: self.list(depth + 1),
            10: lambda: self.list(depth + 1),
            11: lambda: self.map(depth + 1),
            12: lambda: self.struct(depth + 1),
        }
        if kind not in kinds:
            raise _unreadable("has a value of an unknown kind in its footer")
        return kinds[kind]()

    def double(self) -> float:
        """A 64-bit float."""
        self.at += 8
        (found,) = struct.unpack("<d", self.data[self.at - 8 : self.at])
        return float(found)

    def list(self, depth: int) -> list[Any]:
        """Values of one kind."""
        head = self.byte()
        size = self.varint() if head >> 4 == 15 else head >> 4
        return [self.value(head & 0x0F, depth) for _ in range(size)]

    def map(self, depth: int) -> None:
        """Keys and values, which no field that is looked at has."""
        size = self.varint()
        kinds = self.byte() if size else 0
        for _ in range(size):
            self.value(kinds >> 4, depth)
            self.value(kinds & 0x0F, depth)

    def _bound(self, depth: int) -> None:
        self.nodes += 1
        if depth > MAX_DEPTH or self.nodes > MAX_NODES:
            raise _unreadable("has a footer with too many or too deep values")
