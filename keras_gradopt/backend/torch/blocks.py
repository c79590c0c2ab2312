"""Cuts long vectors into blocks that stay in cache."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

Tensor = Any


def cut(vectors: Sequence[Tensor], block: int) -> list[tuple[Tensor, ...]]:
    """The vectors' blocks side by side, of one length but for the last, which is hardly shorter.

    Args:
        vectors: Of one length.
        block: The most entries of a block.
    """
    entries = len(vectors[0])
    length = -(-entries // max(1, -(-entries // block)))
    return list(zip(*(v.split(max(1, length)) for v in vectors), strict=True))
