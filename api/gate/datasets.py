"""The check of a data set in whichever format it comes, told by its first bytes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from api.gate.arrays import check_npz
from api.gate.parquet import MAGIC as PARQUET
from api.gate.parquet import check_parquet
from api.gate.records import ArrayFacts, Refused
from api.gate.tables import rewrite_csv

SNIFFED = 4096
# Beginnings of text that is no table: markup, and JSON.
OTHER_TEXT = (b"<", b"{", b"[", b"%PDF", b"#!")
# Binary formats that hold text, or begin with it.
OTHER_MAGIC = (b"ARROW1", b"FEA1", b"\x80", b"\x89", b"\x1f\x8b", b"\x93NUMPY")


@dataclass(frozen=True)
class DatasetFacts:
    """What the gate learned of a data set.

    Attributes:
        format: Of what is kept.
        target: The column to predict; None where the arrays say it.
        arrays: By name: x, y and perhaps x_val and y_val.
        file: What is kept: the upload itself, or what was written of it.
    """

    format: Literal["npz", "parquet"]
    target: str | None
    arrays: dict[str, ArrayFacts]
    file: Path


def check_dataset(path: Path, target: str | None = None) -> DatasetFacts:
    """Check a data set: .npz by its headers, .parquet by its footer, .csv cell by cell.

    Args:
        path: The upload on disk; its name means nothing. A csv file is written as arrays beside it.
        target: In a table, the column to predict; None takes y, target or label, else the last one.

    Raises:
        Refused: When it is none of these, or not let in.
    """
    with path.open("rb") as file:
        head = file.read(SNIFFED)
    if head.startswith(PARQUET):
        arrays, name = check_parquet(path, target)
        return DatasetFacts("parquet", name, arrays, path)
    if _is_text(head):
        written = path.with_name("arrays.npz")
        arrays, name = rewrite_csv(path, written, target)
        return DatasetFacts("npz", name, arrays, written)
    arrays = check_npz(path)
    if target:
        raise Refused(
            "validation_failed",
            "target names a column of a table, but an .npz file says by its arrays what x and y "
            "are. Leave target out.",
            "/target",
        )
    return DatasetFacts("npz", None, arrays, path)


def _is_text(head: bytes) -> bool:
    """Whether a file may be a csv table; whatever else it is, `check_npz` has a word for it."""
    start = head.removeprefix(b"\xef\xbb\xbf").lstrip()
    other = not start or start.startswith(OTHER_TEXT) or head.startswith((b"PK", *OTHER_MAGIC))
    return not other and b"\0" not in head
