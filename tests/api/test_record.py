"""What is kept of a trial beside its losses: its seconds, and where a cooldown began."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from api.leases import Leases
from api.record import Record
from api.settings import Settings
from api.store import Store
from tests.api.quick import SPEC

pytestmark = pytest.mark.backend_free

PLAN = [
    {"label": name, "method": "adam", "learning_rate": 0.1, "config": {}} for name in ("a", "b")
]


@pytest.fixture
def jobs(tmp_path: Path) -> Iterator[Leases]:
    store = Store(Settings(data_dir=tmp_path))
    store.migrate()
    yield Leases(store)
    store.close()


def test_a_trial_s_seconds_add_up_also_where_a_probe_is_begun_again(jobs: Leases) -> None:
    job = jobs.create({}, SPEC, "jax", {})
    claim = jobs.claim("w")
    assert claim is not None
    record = Record(claim, jobs)
    pieces = ((0, 10, 1.5), (0, 20, 1.0), (1, 10, 0.25))
    for trial, step, seconds in pieces:
        if step == 10:  # from the beginning
            record.begin()
            record.hear({"kind": "planned", "trials": PLAN})
        record.hear({"kind": "worked", "trial": trial, "seconds": seconds})
        record.hear({"kind": "trained", "trial": trial, "points": [[step, 0.5]], "rate": 0.1})
    record.write()
    assert [trial["seconds"] for trial in jobs.trials(job)] == [2.5, 0.25]


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
