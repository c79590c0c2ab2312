"""How long one full training is: rows held out, and steps."""

from __future__ import annotations

import math

VALIDATION_SHARE = 0.2
# Every so-manieth row is held out where targets are classes.
HELD_OUT_EVERY = round(1 / VALIDATION_SHARE)


def held_out(rows: int, *, classes: bool) -> int:
    """Rows held out for validation where the caller gives none.

    Args:
        rows: Examples there are.
        classes: Whether targets are classes: those are held out in equal shares.
    """
    return math.ceil(rows / HELD_OUT_EVERY) if classes else max(1, int(VALIDATION_SHARE * rows))


def full_steps(rows: int, batch_size: int, epochs: int) -> int:
    """Steps of one full training on so many training examples."""
    return math.ceil(rows / batch_size) * epochs
