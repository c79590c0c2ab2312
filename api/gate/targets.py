"""Which column of a table is to be predicted."""

from __future__ import annotations

from api.gate.refusals import listed, mismatch, quote

# Columns that are taken for the targets where nobody names one, in this order; else the last one.
USUAL = ("y", "target", "label")


def target_of(names: list[str], target: str | None) -> int:
    """The position of the target among a table's columns.

    Args:
        names: Of the columns.
        target: As asked; None takes a usual one, else the last.

    Raises:
        Refused: There is no such column.
    """
    if target:
        if target not in names:
            raise mismatch(
                f"There is no column {quote(target)}; the file has {listed(names)}. Name one of "
                "them as the target."
            )
        return names.index(target)
    found = next((name for name in USUAL if name in names), names[-1])
    return names.index(found)
