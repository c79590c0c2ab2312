"""The check of a data set by the headers of its arrays."""

from __future__ import annotations

import math
import re
import struct
from pathlib import Path

from api.gate.archive import open_archive
from api.gate.limits import MAX_DIMENSIONS, MAX_NPY_HEADER_BYTES, MIN_ROWS
from api.gate.records import ArrayFacts, Refused
from api.gate.refusals import listed, mismatch, no_npy, not_numbers, quote

WANTED = "an .npz file, as numpy.savez writes it, or a .csv or .parquet table"


def check_npz(path: Path) -> dict[str, ArrayFacts]:
    """Check a data set of `numpy.savez` or `numpy.savez_compressed` by the headers of its arrays.

    The numbers themselves are not read, so a damaged array shows only when it is loaded.

    Args:
        path: The upload on disk; its name means nothing.

    Returns:
        Facts of x, y and, where both are there, x_val and y_val.

    Raises:
        Refused: When it is no plain archive of numbers, or the arrays do not fit together.
    """
    with open_archive(path, WANTED) as archive:
        names = {name.removesuffix(".npy") for name in archive.members}
        for needed, other in (("x", ""), ("y", ""), ("x_val", "y_val"), ("y_val", "x_val")):
            if needed not in names and (not other or other in names):
                raise Refused(
                    "dataset_incomplete",
                    f"The archive holds {listed(archive.members)}; {needed} is missing. Write it "
                    "with numpy.savez(path, x=x, y=y), and x_val and y_val beside them if wanted.",
                )
        archive.allow_only("x.npy", "y.npy", "x_val.npy", "y_val.npy")
        facts = {
            name.removesuffix(".npy"): _array(name, member.info.file_size, archive.head(member))
            for name, member in archive.members.items()
        }
    _check_rows(facts)
    return dict(sorted(facts.items()))


def _check_rows(facts: dict[str, ArrayFacts]) -> None:
    for name, array in facts.items():
        if not 1 <= len(array.shape) <= MAX_DIMENSIONS or 0 in array.shape:
            raise mismatch(
                f"{name} has shape {array.shape}; 1 to {MAX_DIMENSIONS} axes are allowed, each at "
                "least 1 long, the first one counting examples. Reshape it."
            )
    for x, y in (("x", "y"), ("x_val", "y_val")):
        if x not in facts:
            continue
        rows = facts[x].shape[0], facts[y].shape[0]
        if rows[0] != rows[1]:
            raise mismatch(
                f"{x} has {rows[0]} rows and {y} has {rows[1]}; they must be equal. Save one row "
                "of each for every example."
            )
        if x == "x" and rows[0] < MIN_ROWS:
            raise mismatch(
                f"x and y have {rows[0]} rows; at least {MIN_ROWS} are needed. Send more examples."
            )
    for name in ("x", "y"):
        held_out = facts.get(f"{name}_val")
        if held_out and held_out.shape[1:] != facts[name].shape[1:]:
            raise mismatch(
                f"A row of {name}_val has shape {held_out.shape[1:]}, one of {name} "
                f"{facts[name].shape[1:]}; they must be equal. Prepare both in the same way."
            )


_DTYPE = re.compile(r"(?:[<>=|]?(?P<byte>b1|[iu]1)|[<>=](?P<wide>[iu][248]|f[248]))")
_AXIS = r"(?:0|[1-9]\d{0,19})"
_SHAPE = rf"\((?:{_AXIS},(?: ?{_AXIS}(?:, ?{_AXIS}){{0,62}},?)?)?\)"
_FIELD = (
    r" *['\"](descr|fortran_order|shape)['\"] *: *"
    rf"('[^'\"]{{0,64}}'|\"[^'\"]{{0,64}}\"|True|False|{_SHAPE}) *"
)
_HEADER = re.compile(rf"\{{(?:{_FIELD},){{2}}{_FIELD}(?:, *)?\}} *\n?")
_STRUCTURED = re.compile(r"['\"]descr['\"]\s*:\s*[\[({]")


def _array(name: str, size: int, head: bytes) -> ArrayFacts:
    """Facts from the first bytes of an .npy member of `size` bytes."""
    text, begin = _npy_header(name, head)
    if _STRUCTURED.search(text):
        raise not_numbers(name, "a structured dtype")
    fields = dict(re.findall(_FIELD, text)) if _HEADER.fullmatch(text) else {}
    if fields.keys() != {"descr", "fortran_order", "shape"}:
        raise no_npy(name, "a header without descr, fortran_order and shape")
    descr, shape = fields["descr"].strip("'\""), fields["shape"]
    match = _DTYPE.fullmatch(descr)
    if not match:
        raise not_numbers(name, f"the dtype {quote(descr)}")
    if fields["fortran_order"] not in ("True", "False") or not shape.startswith("("):
        raise no_npy(name, "a header with values of the wrong kind")
    kind = match["byte"] or match["wide"]
    axes = tuple(int(digits) for digits in re.findall(r"\d+", shape))
    width = int(kind[1])
    word = {"b": "bool", "i": "int", "u": "uint", "f": "float"}[kind[0]]
    nbytes = math.prod(axes) * width
    if nbytes != size - begin:
        raise mismatch(
            f"{name} claims shape {quote(shape)} of {width} bytes each, but {size - begin} bytes "
            "of numbers follow. The two must agree: save the file again with numpy.savez."
        )
    return ArrayFacts(axes, word if word == "bool" else f"{word}{8 * width}", nbytes)


def _npy_header(name: str, head: bytes) -> tuple[str, int]:
    """The header of an .npy file as text, and where the numbers begin."""
    if head[:6] != b"\x93NUMPY" or len(head) < 12:
        raise no_npy(name, "other bytes than an array")
    if head[6:8] not in (b"\x01\x00", b"\x02\x00", b"\x03\x00"):
        raise no_npy(name, f"an array of format version {head[6]}.{head[7]}")
    start, form = (10, "<H") if head[6] == 1 else (12, "<I")
    (length,) = struct.unpack_from(form, head, 8)
    if length > MAX_NPY_HEADER_BYTES:
        raise no_npy(name, f"a header of {length} bytes, more than {MAX_NPY_HEADER_BYTES}")
    if len(head) < start + length:
        raise no_npy(name, "a header that breaks off")
    return head[start : start + length].decode("latin-1"), start + length
