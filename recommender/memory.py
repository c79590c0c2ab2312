"""Memory of one request's work: pieces by key, and points of trainings that can be come back to."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recommender.settings import Setting

Arrays = Sequence[NDArray[Any]]


class Memory:
    """Keeps nothing; a subclass may.

    A key names a piece of work by everything that its result depends on within one request.
    """

    def recall(self, key: str) -> Any:
        """The result of a piece of work; None where it has to be made."""
        return None

    def record(self, key: str, value: Any) -> None:
        """Keep a result.

        Args:
            key: Of the piece of work.
            value: Plain data: numbers, text, lists and dicts of them; not None.
        """

    def state(self, key: str) -> Arrays | None:
        """The arrays of a state that was kept under this key, or None."""
        return None

    def keep(self, name: str, key: str, pack: Callable[[], Arrays]) -> None:
        """Keep a state.

        Args:
            name: Of the training; one state of each is kept, the last.
            key: Of the point that it has reached.
            pack: Gives the arrays.
        """

    def drop(self, name: str) -> None:
        """Forget the state of a training."""

    def finish(self) -> None:
        """Forget all states: the answer is there."""


class Point:
    """Where a training stands: its state, or the way there from an earlier point.

    Attributes:
        setting: What is trained.
        key: Names the way from the first weights to here.
        state: What the engine carries; None until somebody needs it.
        before: The point before the last chunk, while the state is not at hand.
        rates, rows: Of the last chunk.
    """

    def __init__(
        self,
        setting: Setting,
        key: str,
        before: Point | None = None,
        rates: Any = None,
        rows: Any = None,
    ) -> None:
        self.setting = setting
        self.key = key
        self.state: Any = None
        self.before = before
        self.rates = rates
        self.rows = rows

    def after(self, rates: NDArray[np.float32], rows: NDArray[np.int32]) -> Point:
        """The point after one more chunk, not reached yet."""
        return Point(self.setting, key_of(self.key, rates, rows), self, rates, rows)

    def reached(self, state: Any) -> None:
        """The state is at hand; the way to it is not needed any more."""
        self.state = state
        self.before = self.rates = self.rows = None

    def dropped(self) -> Point:
        """The same point without its state, and without a way back to it."""
        return Point(self.setting, self.key)


def key_of(*parts: Any) -> str:
    """A short name for settings, arrays, numbers and text taken together."""
    digest = hashlib.sha256()
    for part in parts:
        if isinstance(part, np.ndarray):
            digest.update(f"{part.dtype}{part.shape}".encode())
            digest.update(np.ascontiguousarray(part).tobytes())
        else:
            plain = dataclasses.astuple(part) if isinstance(part, Setting) else part
            digest.update(repr(plain).encode())
        digest.update(b"\0")
    return digest.hexdigest()[:32]
