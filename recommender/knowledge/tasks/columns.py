"""Columns of tables as matrices of numbers."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from recommender.knowledge.tasks.reading import Array, Table, numbers, one_hot


def matrix(table: Table, *names: str) -> Array:
    """The named columns side by side: (rows, names)."""
    return np.stack([numbers(table[name]) for name in names], axis=1)


def matrix_without(table: Table, *left_out: str) -> Array:
    """All other columns side by side."""
    return matrix(table, *(name for name in table if name not in left_out))


def indicators(table: Table, *names: str) -> Array:
    """One column of 0 and 1 for each word in each named column."""
    return np.concatenate([one_hot(table[name]) for name in names], axis=1)


def indicator(column: Sequence[str], word: str) -> Array:
    """1 where the word stands, as targets of one logit: (rows, 1)."""
    return np.array([[value.strip() == word] for value in column], np.float32)


def turn(column: Array, period: float) -> Array:
    """What comes round, as sine and cosine: (rows, 2)."""
    angle = 2 * np.pi / period * column
    return np.stack([np.sin(angle), np.cos(angle)], axis=1).astype(np.float32)


def side_by_side(*parts: Array) -> Array:
    """Matrices of the same rows as one, float32."""
    return np.concatenate(parts, axis=1).astype(np.float32)
