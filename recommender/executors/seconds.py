"""Seconds that were worked on each trial, counted where the work is done."""

from __future__ import annotations

import time


class Seconds:
    """Counts from when work on a trial begins until it is over."""

    def __init__(self) -> None:
        self._worked: dict[int, float] = {}
        self._at: int | None = None
        self._since = 0.0

    def begin(self, trial: int | None) -> None:
        """Work on this trial begins, or on none that counts; what was worked on before is over."""
        self.end()
        self._at, self._since = trial, time.monotonic()

    def end(self) -> None:
        """What was worked on is over."""
        if self._at is not None:
            worked = self._worked.get(self._at, 0.0) + time.monotonic() - self._since
            self._worked[self._at] = worked
        self._at = None

    def take(self, trial: int) -> float:
        """Seconds worked on a trial since they were taken last; work is over."""
        self.end()
        return self._worked.pop(trial, 0.0)
