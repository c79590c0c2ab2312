"""Krylov: Lanczos' basis on the host, for a symmetric matrix that is known by its products."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

Product = Callable[[np.ndarray], np.ndarray]


class Krylov:
    r"""A growing orthonormal basis $V$ with the matrix $T = V^T A V$ in it.

    Every new vector is orthogonalised twice against all before it, so that $V$ stays orthonormal
    and no eigenvalue appears twice by rounding. $T$ is kept whole, not as a tridiagonal: then a
    restart from Ritz vectors is to turn $V$ and to cut it.

    Args:
        product: From $v$ to $A v$, float64.
        start: The first vector, shape (size,), not 0.
        dimension: The most basis vectors to hold at a time; each takes 8 bytes an entry.
        rng: Makes a new direction where the space is exhausted.
    """

    def __init__(
        self, product: Product, start: np.ndarray, dimension: int, rng: np.random.Generator
    ) -> None:
        self._product, self._rng = product, rng
        self.dimension = min(dimension, start.size)
        self._v = np.zeros((self.dimension, start.size))
        self._t = np.zeros((self.dimension, self.dimension))
        self._next = start / np.linalg.norm(start)
        self.filled = 0
        self.products = 0
        self._beta = 0.0

    @property
    def is_full(self) -> bool:
        """Whether the basis holds as many vectors as it may."""
        return self.filled == self.dimension

    def extend(self) -> None:
        """Adds one vector to the basis, at the cost of one product."""
        j = self.filled
        self._v[j] = self._next
        w = self._product(self._next)
        self.products += 1
        scale = float(np.linalg.norm(w))
        h = self._orthogonalise(w, j + 1)
        self._t[: j + 1, j] = self._t[j, : j + 1] = h
        self.filled = j + 1
        self._beta = float(np.linalg.norm(w))
        if self.filled == self._v.shape[1]:  # the whole space: nothing is left
            return
        if self._beta <= 1e-14 * scale or self._beta == 0.0:
            # The space maps into itself: go on in any direction outside of it.
            self._beta = 0.0
            w = self._rng.normal(size=w.size)
            self._orthogonalise(w, j + 1)
        self._next = w / np.linalg.norm(w)

    def _orthogonalise(self, w: np.ndarray, count: int) -> np.ndarray:
        basis, total = self._v[:count], np.zeros(count)
        for _ in range(2):
            h = basis @ w
            w -= h @ basis
            total += h
        return total

    def ritz(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Ritz values (rising), their vectors in the basis (columns), and their residuals' norms.

        The norms are what they would be in exact arithmetic.
        """
        j = self.filled
        values, s = np.linalg.eigh(self._t[:j, :j])
        return values, s, self._beta * np.abs(s[-1])

    def vectors(self, s: np.ndarray) -> np.ndarray:
        """Combinations of the basis, one a row.

        Args:
            s: Their coefficients, one a column.
        """
        return s.T @ self._v[: self.filled]

    def restart(self, values: np.ndarray, s: np.ndarray) -> None:
        """Keeps some Ritz vectors and the vector to come, and drops all others.

        Args:
            values: The Ritz values of those to keep.
            s: Their vectors in the basis, one a column.
        """
        kept = len(values)
        self._v[:kept] = self.vectors(s)
        self._t[:] = 0.0
        self._t[:kept, :kept] = np.diag(values)
        self.filled = kept


def rademacher(rng: np.random.Generator, size: int) -> np.ndarray:
    """Entries -1 and 1 with equal odds."""
    return 2.0 * rng.integers(0, 2, size) - 1.0
