"""The ledger under any order of steps, by any number of workers, dead ones and zombies included."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    invariant,
    multiple,
    rule,
)

from api.jobs import QueueFull
from api.leases import Claim, Leases, Notes
from api.settings import Settings
from api.store import Store
from api.transitions import ENDED, HELD
from tests.api.ledger import assert_sound

pytestmark = pytest.mark.backend_free

LEASE, ATTEMPTS, MOST_QUEUED = 10.0, 3, 4
WORKERS = st.sampled_from(["a", "b", "c"])


@cache
def migrated() -> Path:
    """A ledger with tables and nothing else, made once."""
    folder = Path(tempfile.mkdtemp())
    store = Store(Settings(data_dir=folder))
    store.migrate()
    store.close()
    return folder


class Ledger(RuleBasedStateMachine):
    """Steps of callers and workers; what must hold is looked at after each."""

    made: Bundle[str] = Bundle("made")
    claims: Bundle[Claim] = Bundle("claims")

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp())
        shutil.copytree(migrated(), self.folder, dirs_exist_ok=True)
        self.now = self.ticks = 1_000_000.0
        self.store = Store(
            Settings(
                data_dir=self.folder,
                lease_seconds=LEASE,
                attempts=ATTEMPTS,
                max_queued=MOST_QUEUED,
            )
        )
        clocks: Any = {"clock": lambda: self.now, "ticks": lambda: self.ticks}
        self.jobs = Leases(self.store, **clocks)
        # Another process, which watches leases on its own.
        self.other = Leases(self.store, **clocks)
        self.ends: dict[str, tuple[Any, ...]] = {}

    def teardown(self) -> None:
        self.store.close()
        shutil.rmtree(self.folder)

    @rule(target=made)
    def create(self) -> Any:
        waiting = [r for r in self.jobs.newest(100, None) if r.status == "queued"]
        if len(waiting) >= MOST_QUEUED:
            with pytest.raises(QueueFull):
                self.jobs.create({}, {}, "jax", {})
            return multiple()
        return self.jobs.create({}, {}, "jax", {})

    @rule(target=claims, worker=WORKERS)
    def claim(self, worker: str) -> Any:
        rows = self.jobs.newest(100, None)
        waiting = sorted((r.created_at, r.id) for r in rows if r.status == "queued")
        claim = self.jobs.claim(worker)
        if not waiting:
            assert claim is None
            return multiple()
        assert claim is not None
        assert claim.id == waiting[0][1], "the one that waits longest"
        assert self.jobs.standing(claim) == "held"
        return claim

    @rule(claim=claims, number=st.integers(0, 2), status=st.sampled_from(["running", "completed"]))
    def note(self, claim: Claim, number: int, status: str) -> None:
        trial = {"id": f"trl_{number}", "status": status, "loss_curve": [], "val_curve": []}
        notes = Notes(trials={number: trial}, events=[("log", {"text": status})])
        self._guarded(claim, lambda: self.jobs.note(claim, notes))

    @rule(
        claim=claims,
        status=st.sampled_from(["succeeded", "failed", "timed_out", "cancelled"]),
        found=st.booleans(),
    )
    def finish(self, claim: Claim, status: str, *, found: bool) -> None:
        result = {"by": claim.fence} if found or status == "succeeded" else None
        reason = None if status == "succeeded" else (status, "It did.")
        asked = self.jobs.standing(claim)
        if status == "cancelled" and asked != "cancelling":
            return  # a worker says so only when it was asked to
        self._guarded(claim, lambda: self.jobs.finish(claim, status, result=result, reason=reason))
        if asked != "lost":
            row = self.jobs.get(claim.id)
            assert row is not None
            assert row.status == ("cancelled" if asked == "cancelling" else status)
            assert row.result == result

    @rule(claim=consumes(claims))
    def forget(self, claim: Claim) -> None:
        """A worker loses a claim from its memory."""

    @rule(job=made)
    def cancel(self, job: str) -> None:
        before = self.jobs.get(job)
        self.jobs.cancel(job)
        after = self.jobs.get(job)
        assert before is not None
        assert after is not None
        if before.status in ENDED or before.status == "cancelling":
            assert after == before
        else:
            assert after.status == ("cancelled" if before.status == "queued" else "cancelling")

    @rule(worker=WORKERS)
    def beat(self, worker: str) -> None:
        self.jobs.beat(worker)

    @rule(worker=WORKERS)
    def give_back(self, worker: str) -> None:
        held = {r.id: r for r in self.jobs.newest(100, None) if r.worker == worker}
        self.jobs.give_back(worker)
        for job, before in held.items():
            row = self.jobs.get(job)
            assert row is not None
            if before.status == "running":
                assert (row.status, row.attempt) == ("queued", before.attempt - 1)
            else:
                assert row.status == "cancelled"

    @rule(seconds=st.floats(0.1, 2 * LEASE))
    def wait(self, seconds: float) -> None:
        self.now += seconds
        self.ticks += seconds

    @rule(seconds=st.sampled_from([-3600.0, 3600.0]))
    def jump(self, seconds: float) -> None:
        """Somebody sets the clock."""
        self.now += seconds

    @rule(elsewhere=st.booleans())
    def reap(self, *, elsewhere: bool) -> None:
        (self.other if elsewhere else self.jobs).reap()

    @rule()
    def silence(self) -> None:
        """Whatever is held now is given up once nobody has been heard of for a lease."""
        self.jobs.reap()
        self.now += LEASE + 5
        self.ticks += LEASE + 5
        self.jobs.reap()
        assert not [r for r in self.jobs.newest(100, None) if r.status in HELD]

    @invariant()
    def every_job_is_sound(self) -> None:
        for row in self.jobs.newest(100, None):
            assert_sound(self.jobs, row.id, ATTEMPTS)
            if row.status in ENDED:
                end = (row.status, row.result, row.finished_at, row.last_seq, row.version)
                assert self.ends.setdefault(row.id, end) == end, "an end is the end"

    def _guarded(self, claim: Claim, write: Callable[[], None]) -> None:
        """Do it; a claim whose fence is not the job's changes nothing."""
        before = self.jobs.get(claim.id)
        held = self.jobs.standing(claim) != "lost"
        write()
        after = self.jobs.get(claim.id)
        assert before is not None
        assert after is not None
        assert (after.version > before.version) == held
        if not held:
            assert after == before


TestLedger = Ledger.TestCase
TestLedger.settings = settings(
    max_examples=60,
    stateful_step_count=40,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)
