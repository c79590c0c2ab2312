"""Seconds are counted for the trial that is worked on, from its beginning to its end."""

from __future__ import annotations

import pytest

from recommender.executors import seconds as seconds_
from recommender.executors.seconds import Seconds

pytestmark = pytest.mark.backend_free


class Clock:
    """A clock that is set."""

    now = 0.0

    def monotonic(self) -> float:
        """The time it was set to."""
        return self.now


def test_only_time_between_beginning_and_end_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    monkeypatch.setattr(seconds_, "time", clock)
    counted = Seconds()
    for at, trial in ((1, None), (3, 0), (4, 1), (4.5, 0)):
        clock.now = at
        counted.begin(trial)
    clock.now = 6.5
    counted.end()
    clock.now = 100
    counted.end()
    assert (counted.take(0), counted.take(1), counted.take(2)) == (3.0, 0.5, 0.0)
    assert counted.take(0) == 0.0, "told once"
    counted.begin(0)
    clock.now = 101
    assert counted.take(0) == 1.0, "taking ends it"
    clock.now = 200
    assert counted.take(0) == 0.0
