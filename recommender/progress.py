"""Progress: what a caller may hear while an advice comes about."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from recommender.settings import Setting


class Progress:
    """Hears how an advice comes about; a subclass overrides what it wants to hear.

    Methods are called in the thread that probes, between two pieces of work; an exception raised
    in one of them ends the request.
    """

    def said(self, text: str) -> None:
        """One line about what is being done."""

    def planned(self, settings: Sequence[Setting]) -> None:
        """What will be probed, in order of prior; called before the first step."""

    def working(self, setting: Setting) -> None:
        """A piece of work on this setting begins; not called for what a journal already holds."""

    def trained(
        self, setting: Setting, first: int, losses: NDArray[np.float32], rate: float
    ) -> None:
        """A probe went on at its constant rate.

        Args:
            setting: Which one; possibly one that was not planned, such as a rate of the range test.
            first: Steps it had made before.
            losses: Minibatch loss before each of the new steps; the last may be NaN or infinite.
            rate: The learning rate.
        """

    def judged(self, setting: Setting, step: int, loss: float) -> None:
        """Validation loss of a copy that was cooled down at `step`; infinite where it diverged."""

    def stopped(self, setting: Setting, reason: str) -> None:
        """A probe goes no further, and why."""

    def spent(self, fraction: float) -> None:
        """How much of the budget is used, in [0, 1]."""

    def enough(self) -> bool:
        """Whether to come to an end with what is known, as if `max_seconds` had passed.

        Asked before every piece of work.
        """
        return False


class Lines(Progress):
    """Hands the lines on to a function.

    Args:
        write: Is called with each line.
    """

    def __init__(self, write: Callable[[str], None]) -> None:
        self._write = write

    def said(self, text: str) -> None:
        """Hand it on."""
        self._write(text)


def as_progress(progress: bool | Callable[[str], None] | Progress) -> Progress:
    """What `recommend` was given, as a `Progress`: True writes lines to standard error."""
    if isinstance(progress, Progress):
        return progress
    if callable(progress):
        return Lines(progress)
    return Lines(_to_stderr) if progress else Progress()


def _to_stderr(text: str) -> None:
    sys.stderr.write(f"gradopt: {text}\n")
    sys.stderr.flush()
