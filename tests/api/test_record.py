"""What is kept of a trial beside its losses: its seconds, and where a cooldown began."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from api import record as record_
from api.leases import Leases
from api.record import Record
from api.settings import Settings
from api.store import Store
from tests.api.quick import SPEC

pytestmark = pytest.mark.backend_free

PLAN = [
    {"label": name, "method": "adam", "learning_rate": 0.1, "config": {}} for name in ("a", "b")
]


class Clock:
    """A clock that is set."""

    now = 0.0

    def monotonic(self) -> float:
        """The time it was set to."""
        return self.now


@pytest.fixture
def jobs(tmp_path: Path) -> Iterator[Leases]:
    store = Store(Settings(data_dir=tmp_path))
    store.migrate()
    yield Leases(store)
    store.close()


def told(record: Record, clock: Clock, at: float, kind: str, **fields: Any) -> None:
    clock.now = at
    record.hear({"kind": kind, **fields})


def test_a_trial_s_seconds_are_those_in_which_it_was_worked_on(
    jobs: Leases, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = jobs.create({}, SPEC, "jax", {})
    claim = jobs.claim("w")
    assert claim is not None
    clock = Clock()
    monkeypatch.setattr(record_, "time", clock)
    record = Record(claim, jobs)

    def works(trial: int | None) -> dict[str, Any]:
        return {"trial": trial, "label": "x", "key": "k"}

    told(record, clock, 1, "planned", trials=PLAN)
    told(record, clock, 2, "working", **works(None))
    told(record, clock, 5, "working", **works(0))
    told(record, clock, 7, "trained", trial=0, points=[[30, 0.5]], rate=0.1)
    told(record, clock, 8, "working", **works(0))
    told(record, clock, 8.5, "judged", trial=0, step=40, loss=0.4)
    told(record, clock, 20, "working", **works(1))
    told(record, clock, 20.25, "said", text="b goes")
    record.write()
    assert [trial["seconds"] for trial in jobs.trials(job)] == [2.5, 0.0], "b was not noted yet"

    # It is begun again, and goes on with b only.
    record.begin()
    told(record, clock, 30, "planned", trials=PLAN)
    told(record, clock, 31, "working", **works(1))
    told(record, clock, 32, "trained", trial=1, points=[[30, 0.6]], rate=0.1)
    record.write()
    assert [trial["seconds"] for trial in jobs.trials(job)] == [2.5, 1.25]


def test_an_event_says_where_a_cooldown_began(jobs: Leases) -> None:
    job = jobs.create({}, SPEC, "jax", {})
    claim = jobs.claim("w")
    assert claim is not None
    record = Record(claim, jobs)
    record.hear({"kind": "planned", "trials": PLAN})
    for begins, ends in ((30, 40), (90, 120)):
        record.hear({"kind": "trained", "trial": 0, "points": [[begins, 0.5]], "rate": 0.1})
        record.hear({"kind": "judged", "trial": 0, "step": ends, "loss": 0.4})
    record.write()
    found = [event.data for event in jobs.events(job, 0, 100) if event.type == "trial.judged"]
    assert [(one["cooled_from"], one["step"]) for one in found] == [(30, 40), (90, 120)]
