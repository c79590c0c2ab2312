"""The ledger under any order of steps, by any number of workers, dead ones and zombies included."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    initialize,
    invariant,
    multiple,
    precondition,
    rule,
)
from sqlalchemy import Row

from api.caller import Caller
from api.jobs import NO_PROGRESS, InUse, Jobs, QueueFull, QuotaExceeded
from api.leases import Claim, Leases, Notes
from api.settings import Settings
from api.store import Store, events, jobs, trials, workers
from api.transitions import ENDED, HELD, LIVE
from tests.api.crowded import Crowded
from tests.api.ledger import assert_sound

pytestmark = pytest.mark.backend_free

LEASE, ATTEMPTS, MOST_QUEUED, MOST_LIVE = 10.0, 2, 4, 2
WORKERS = st.sampled_from(["a", "b"])
# A claim, counted from the last one.
RECENT = st.integers(0, 3)
# Two keys of one tenant, and a stranger.
CALLERS = [Caller(t, k, frozenset()) for t, k in (("one", "k1"), ("one", "k2"), ("two", "k3"))]
WHO = st.sampled_from(CALLERS)


@dataclass
class Known:
    """What must be true of a job, by all that was done to it.

    Attributes:
        tenant: Whose it is.
        heard: When its worker gave the last sign of life, by the clock that never jumps.
        fences: Of all claims to it.
        trials: As they were written last.
        progress: As it was written last.
        end: Its row, once it has ended.
    """

    tenant: str
    heard: float = 0.0
    fences: set[int] = field(default_factory=set)
    trials: dict[int, Any] = field(default_factory=dict)
    progress: Any = field(default_factory=lambda: NO_PROGRESS)
    end: Row[Any] | None = None


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

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp())
        shutil.copytree(migrated(), self.folder, dirs_exist_ok=True)
        self.now = self.ticks = 1_000_000.0
        chosen = Settings(
            data_dir=self.folder,
            lease_seconds=LEASE,
            attempts=ATTEMPTS,
            max_queued=MOST_QUEUED,
            live_jobs_per_key=MOST_LIVE,
        )
        self.store, self.beside = Crowded(chosen), Store(chosen)
        clocks: Any = {"clock": lambda: self.now, "ticks": lambda: self.ticks}
        self.leases = Leases(self.store, **clocks)
        # Another process: it watches leases on its own, and acts in the middle of others' steps.
        self.others = Leases(self.beside, **clocks)
        self.known: dict[str, Known] = {}
        self.given: list[Claim] = []
        # What was found sound, with all that was looked at.
        self.sound: dict[str, Any] = {}

    def teardown(self) -> None:
        self.store.close()
        self.beside.close()
        shutil.rmtree(self.folder)

    @initialize(target=made)
    def some_jobs(self) -> Any:
        """Hypothesis leaves out half of the rules in each run; without jobs nothing happens."""
        made = [job for who in CALLERS for job in self.create(who, rushed=False).values]
        self.claim("a")
        return multiple(*made)

    @rule(target=made, who=WHO, rushed=st.booleans())
    def create(self, who: Caller, *, rushed: bool) -> Any:
        before = set(self.known)
        if rushed:
            with self.store.meanwhile(lambda: self._create(self.beside, who)):
                self._create(self.store, who)
        else:
            self._create(self.store, who)
        return multiple(*(set(self.known) - before))

    def _create(self, store: Store, who: Caller) -> None:
        # Jobs of the same moment would be taken in any order.
        self.now += 0.001
        try:
            job = Jobs(store, who, clock=lambda: self.now).create({}, {}, "jax", {})
        except QueueFull:
            assert self._count(jobs.c.status == "queued") >= MOST_QUEUED
        except QuotaExceeded:
            assert self._count(jobs.c.key == who.key, jobs.c.status.in_(LIVE)) >= MOST_LIVE
        else:
            self.known[job] = Known(who.tenant)
            assert self._count(jobs.c.status == "queued") <= MOST_QUEUED
            assert self._count(jobs.c.key == who.key, jobs.c.status.in_(LIVE)) <= MOST_LIVE

    @rule(worker=WORKERS)
    def claim(self, worker: str) -> None:
        waiting = sorted(self._rows("queued"), key=lambda row: row.created_at)
        claim = self.leases.claim(worker)
        if not waiting:
            assert claim is None
            return
        assert claim is not None
        before, known = waiting[0], self.known[claim.id]
        assert claim.id == before.id, "the one that waits longest"
        assert (claim.attempt, claim.fence > before.fence) == (before.attempt + 1, True)
        assert claim.fence not in known.fences, "no two claims have the same fence"
        assert self.leases.standing(claim) == "held"
        row = self._row(claim.id)
        assert row is not None
        assert (row.worker, row.lease_until) == (worker, self.now + LEASE)
        known.fences.add(claim.fence)
        known.heard = self.ticks
        self.given.append(claim)

    @precondition(lambda self: self.given)
    @rule(which=RECENT, number=st.integers(0, 2), status=st.sampled_from(["running", "completed"]))
    def note(self, which: int, number: int, status: str) -> None:
        claim = self._given(which)
        self._guarded(claim, lambda: self._note(self.leases, claim, number, status))

    def _note(self, leases: Leases, claim: Claim, number: int, status: str) -> None:
        trial = {"id": f"trl_{number}", "status": status, "loss_curve": [], "val_curve": []}
        progress = {**NO_PROGRESS, "trials_done": number}
        holds = self._holds(claim)
        leases.note(claim, Notes([("log", {"text": status})], {number: trial}, progress))
        if holds:
            known = self.known[claim.id]
            known.trials[number], known.progress = trial, progress

    @precondition(lambda self: self.given)
    @rule(
        which=RECENT,
        status=st.sampled_from(["succeeded", "failed", "timed_out", "cancelled"]),
        found=st.booleans(),
        asked=st.booleans(),
    )
    def finish(self, which: int, status: str, *, found: bool, asked: bool) -> None:
        """A worker ends a job; somebody may have asked for its end just before."""
        claim = self._given(which)
        if asked:
            self.others.cancel(claim.id)
        result = {"by": claim.fence} if found or status == "succeeded" else None
        reason = None if status == "succeeded" else (status, "It did.")
        usage = {"cpu_seconds": float(claim.fence)}
        before = self._row(claim.id)
        asked = before is not None and before.status == "cancelling"
        holds = self._holds(claim)
        if status == "cancelled" and not asked:
            return  # a worker says so only when it was asked to
        self._guarded(
            claim,
            lambda: self.leases.finish(claim, status, result=result, reason=reason, usage=usage),
        )
        if holds:
            row = self._row(claim.id)
            assert row is not None
            assert row.status == ("cancelled" if asked else status)
            assert (row.result, row.usage) == (result, usage)

    @rule(status=st.sampled_from(["succeeded", "failed"]))
    def haunt(self, status: str) -> None:
        """Whoever has lost a claim writes under it all the same."""
        before = self._ledger()
        for claim in self.given:
            if not self._holds(claim):
                self.leases.note(claim, Notes([("log", {"text": "boo"})], {0: {"id": "boo"}}, {}))
                self.leases.finish(claim, status, result={"by": "a ghost"}, reason=(status, "Boo."))
        assert self._ledger() == before

    @rule(job=made, who=WHO)
    def cancel(self, job: str, who: Caller) -> None:
        before = self._row(job)
        Jobs(self.store, who, clock=lambda: self.now).cancel(job)
        after = self._row(job)
        asked = {"queued": "cancelled", "running": "cancelling"}
        if before is None or before.status not in asked or before.tenant != who.tenant:
            assert after == before
        else:
            assert after is not None
            assert after.status == asked[before.status]
        Jobs(self.store, who, clock=lambda: self.now).cancel(job)
        assert self._row(job) == after, "asked twice is asked once"

    @rule(job=made, who=WHO)
    def delete(self, job: str, who: Caller) -> None:
        before = self._row(job)
        mine = before is not None and before.tenant == who.tenant
        if mine and before is not None and before.status in LIVE:
            with pytest.raises(InUse):
                Jobs(self.store, who).delete(job)
            return
        assert Jobs(self.store, who).delete(job) == mine
        if mine:
            del self.known[job]
            with self.beside.read() as connection:
                for table in (trials, events):
                    left = sa.select(table).where(table.c.job_id == job)
                    assert connection.execute(left).first() is None
        else:
            assert self._row(job) == before

    @rule(job=made, who=WHO, after=st.integers(0, 6), number=st.integers(0, 2))
    def look(self, job: str, who: Caller, after: int, number: int) -> None:
        """A caller looks at a job, whose worker may have something to say at this moment."""
        seen, before = Jobs(self.store, who), self._row(job)

        def speak() -> None:
            if before is not None:
                claim = Claim(job, before.fence, before.attempt, "jax", {})
                self._note(self.others, claim, number, "running")

        with self.store.meanwhile(speak):
            row, told = seen.since(job, after, 10**6)
        if before is None or before.tenant != who.tenant:
            assert (row, told, seen.get(job)) == (None, [], None)
            assert (seen.events(job, 0, 9), seen.trials(job)) == ([], [])
        else:
            assert row is not None
            assert [one.seq for one in told] == list(range(after + 1, row.last_seq + 1))

    @rule(worker=WORKERS)
    def beat(self, worker: str) -> None:
        self._beat(self.leases, worker)

    def _beat(self, leases: Leases, worker: str) -> None:
        before = self._rows(*HELD)
        leases.beat(worker)
        assert leases.workers_alive() >= 1
        for row in before:
            mine = row.worker == worker
            after = self._row(row.id)
            assert after is not None
            assert after.lease_until == (self.now + LEASE if mine else row.lease_until)
            if mine:
                self.known[row.id].heard = self.ticks

    @rule(worker=WORKERS)
    def give_back(self, worker: str) -> None:
        before = self._rows(*HELD)
        self.leases.give_back(worker)
        for row in before:
            if row.worker == worker:
                self._back_again(row, row.attempt - 1)
            else:
                assert self._row(row.id) == row
        with self.beside.read() as connection:
            assert worker not in connection.scalars(sa.select(workers.c.id)).all()

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
        self._reap(self.others if elsewhere else self.leases)

    def _reap(self, leases: Leases) -> None:
        before = self._rows(*HELD)
        leases.reap()
        for row in before:
            after = self._row(row.id)
            assert after is not None
            if after.status == row.status:
                continue
            silent = self.ticks - self.known[row.id].heard
            over = row.lease_until < self.now
            assert silent >= (LEASE / 2 if over else LEASE), "only from the dead"
            if row.status == "running" and row.attempt == ATTEMPTS:
                assert (after.status, after.reason_code) == ("failed", "worker_lost")
            else:
                self._back_again(row, row.attempt)

    @rule(
        worker=WORKERS,
        wakes=WORKERS | st.none(),
        leases=st.sampled_from([0.4, 0.7, 1.5]),
        asked=st.booleans(),
    )
    def silence(self, worker: str, wakes: str | None, leases: float, *, asked: bool) -> None:
        """Whatever is held is given up once nobody has been heard of for a lease; one goes on.

        A worker may give a sign of life at the very moment at which it is taken for dead.
        """
        self._reap(self.leases)
        for row in self._rows(*HELD) if asked else ():
            self.others.cancel(row.id)
        self.wait(leases * LEASE)
        if wakes is None:
            self._reap(self.leases)
        else:
            with self.store.meanwhile(lambda: self._beat(self.others, wakes)):
                self._reap(self.leases)
        if leases > 1:
            assert {row.worker for row in self._rows(*HELD)} <= {wakes}
        self.claim(worker)

    @invariant()
    def every_job_is_sound(self) -> None:
        ledger = self._ledger()
        assert set(ledger) == set(self.known), "none is lost, none comes from nowhere"
        for job, found in ledger.items():
            if self.sound.get(job) != found:
                self._assert_sound(found[0], self.known[job])
                self.sound[job] = found
        for claim in self.given:
            found = ledger.get(claim.id)
            holds = found is not None and self._held(claim, found[0])
            assert (self.leases.standing(claim) != "lost") == holds

    def _assert_sound(self, row: Row[Any], known: Known) -> None:
        if assert_sound(self.others, row.id, ATTEMPTS) in ENDED:
            known.end = row if known.end is None else known.end
            assert row == known.end, "an end is the end"
            cut = "cancelled" if row.status == "cancelled" else "failed"
            for trial in known.trials.values():
                trial["status"] = "completed" if trial["status"] == "completed" else cut
        else:
            assert row.progress == known.progress
        told = [known.trials[number] for number in sorted(known.trials)]
        assert self.others.trials(row.id) == told

    def _back_again(self, before: Row[Any], attempt: int) -> None:
        """A job that was taken from its worker waits, or has ended where that was asked for."""
        after = self._row(before.id)
        assert after is not None
        if before.status == "cancelling":
            assert after.status == "cancelled"
        else:
            assert (after.status, after.attempt) == ("queued", attempt)
            assert after.fence > before.fence, "whoever had it has it no more"

    def _given(self, which: int) -> Claim:
        """A claim, counted from the last one."""
        return self.given[-1 - which % len(self.given)]

    def _holds(self, claim: Claim) -> bool:
        """Whether what is written under a claim counts."""
        row = self._row(claim.id)
        return row is not None and self._held(claim, row)

    @staticmethod
    def _held(claim: Claim, row: Row[Any]) -> bool:
        return row.fence == claim.fence and row.status in HELD

    def _guarded(self, claim: Claim, write: Callable[[], None]) -> None:
        """Do it; a claim whose fence is not the job's changes nothing."""
        before, holds = self._row(claim.id), self._holds(claim)
        write()
        after = self._row(claim.id)
        if holds:
            assert before is not None
            assert after is not None
            assert after.version > before.version
        else:
            assert after == before

    def _ledger(self) -> dict[str, tuple[Row[Any], list[Any], list[Any]]]:
        """Everything: each job with its events and trials."""
        with self.beside.read() as connection:
            all_ = {
                row.id: (row, list[Any](), list[Any]())
                for row in connection.execute(sa.select(jobs))
            }
            for place, table in ((1, events), (2, trials)):
                for row in connection.execute(sa.select(table)):
                    all_[row.job_id][place].append(row)
        return all_

    def _row(self, job: str) -> Row[Any] | None:
        return self.others.get(job)

    def _rows(self, *states: str) -> Sequence[Row[Any]]:
        """Jobs in these states; none named: all."""
        where = [jobs.c.status.in_(states)] if states else []
        with self.beside.read() as connection:
            return connection.execute(sa.select(jobs).where(*where)).all()

    def _count(self, *where: sa.ColumnElement[bool]) -> int:
        with self.beside.read() as connection:
            query = sa.select(sa.func.count()).select_from(jobs).where(*where)
            return int(connection.scalar(query) or 0)


TestLedger = Ledger.TestCase
TestLedger.settings = settings(
    max_examples=100,
    stateful_step_count=40,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)
