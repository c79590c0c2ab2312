"""What a worker does when its probes die: it goes on, it goes on without, or it gives up."""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import sqlite3
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from api import scratch
from api.jobs import Jobs
from api.leases import Leases
from api.record import Record
from api.sandbox import Sandbox
from api.settings import Settings
from api.store import Store
from api.transitions import ENDED
from api.worker import MOST_INFEASIBLE, STRIKES, Worker, local
from recommender.executors import Executor, Outcome, ProbeSpec
from recommender.executors.local import PREFIX, LocalProbe, abandoned
from tests.api.ledger import assert_sound
from tests.api.quick import SPEC, Quick, said
from tests.api.server import until

pytestmark = [
    pytest.mark.backend_free,
    pytest.mark.skipif(sys.platform != "linux", reason="a worker needs Linux"),
]
ATTEMPTS = 3
DIED = Outcome("failed", None, "probe_died", "It died.", {}, died=True)


class Mortal(Quick):
    """Dies whenever it is about to train one of some trials, or nothing in particular."""

    started = 0

    def __init__(self, dies_at: set[int | None], times: int = 10**6) -> None:
        super().__init__("jax")
        self._dies_at = dies_at
        self._times = times

    def run(
        self,
        spec: ProbeSpec,
        hears: Callable[[Any], None],
        cancelled: Callable[[], bool],
        journal: Path | None = None,
        failed: Mapping[str, str] | None = None,
    ) -> Outcome:
        """As a probe does: what has failed is told of, and not trained."""
        Mortal.started += 1
        failed = failed or {}
        alive = Mortal.started > self._times
        for message in said(spec.seed, 2):
            trial = message.get("trial")
            if f"k{trial}" in failed:
                if message["kind"] == "stopped":
                    hears({**message, "reason": failed[f"k{trial}"]})
                continue
            hears(message)
            if not alive and None in self._dies_at and message["kind"] == "spent":
                return DIED
            if not alive and message["kind"] == "working" and trial in self._dies_at:
                return DIED
        return Outcome("succeeded", {"without": sorted(failed)}, None, None, {})


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    made = Store(Settings(data_dir=tmp_path, poll_seconds=0.02, attempts=ATTEMPTS))
    made.migrate()
    yield made
    made.close()


@contextmanager
def working(store: Store, starts: Callable[[str], Executor]) -> Iterator[Worker]:
    """A worker in a thread."""
    Mortal.started = 0
    worker = Worker(store.settings, starts)
    thread = threading.Thread(target=worker.run)
    thread.start()
    try:
        yield worker
    finally:
        worker.stop()
        thread.join()


def ask(store: Store, **changes: Any) -> str:
    return Jobs(store).create({}, {**SPEC, **changes}, "jax", {})


def ended(store: Store, job: str, seconds: float = 30) -> Any:
    jobs = Jobs(store)
    until(lambda: jobs.get(job).status in ENDED, "it ends", seconds)  # type: ignore[union-attr]
    assert_sound(jobs, job, ATTEMPTS)
    return jobs.get(job)


def test_a_probe_that_dies_once_is_gone_on_with(store: Store) -> None:
    job = ask(store)
    with working(store, lambda _: Mortal({1}, times=1)):
        row = ended(store, job)
    assert (row.status, row.result, row.attempt) == ("succeeded", {"without": []}, 1)
    trials = Jobs(store).trials(job)
    assert [t["status"] for t in trials] == ["stopped_early"] * 3
    assert {t["attempts"] for t in trials} == {2}


def test_a_candidate_that_ends_its_process_twice_is_infeasible_and_the_job_goes_on(
    store: Store,
) -> None:
    job = ask(store)
    with working(store, lambda _: Mortal({1})):
        row = ended(store, job)
    assert (row.status, row.result) == ("succeeded", {"without": ["k1"]})
    assert Mortal.started == STRIKES + 1
    trials = Jobs(store).trials(job)
    assert [t["status"] for t in trials] == ["stopped_early", "infeasible", "stopped_early"]
    assert "2 times" in trials[1]["stopped"]
    assert row.progress["trials_failed"] == 1
    assert any("trial 1 ended the process" in text for text in Jobs(store).logged(job))


def test_a_job_whose_probe_dies_of_nothing_in_particular_fails_after_its_attempts(
    store: Store,
) -> None:
    job = ask(store)
    with working(store, lambda _: Mortal({None})):
        row = ended(store, job)
    assert (row.status, row.reason_code) == ("failed", "probe_died")
    assert Mortal.started == ATTEMPTS


def test_a_job_that_dies_of_every_candidate_is_given_up(store: Store) -> None:
    class Never(Mortal):
        """Does not heed what has failed."""

        def run(self, *arguments: Any) -> Outcome:
            return super().run(*arguments[:4], {})

    job = ask(store)
    with working(store, lambda _: Never({0, 1, 2})):
        row = ended(store, job)
    assert (row.status, row.reason_code) == ("failed", "probe_died")
    assert Mortal.started <= ATTEMPTS + STRIKES * MOST_INFEASIBLE


def test_a_real_candidate_that_ends_its_process_twice_is_left_out(store: Store) -> None:
    """The child is killed whenever it says that it works on the second candidate."""
    starts = local(store.settings, Sandbox(store.settings))
    killed = []

    class Killed(LocalProbe):
        """Hears what the worker hears, and kills."""

        def run(self, spec: Any, hears: Any, *others: Any) -> Outcome:
            def hear(message: Any) -> None:
                hears(message)
                if message["kind"] == "working" and message["trial"] == 1:
                    killed.append(self.pid)
                    os.kill(self.pid, signal.SIGKILL)

            return super().run(spec, hear, *others)

    def start(backend: str) -> Executor:
        probe = starts(backend)
        probe.__class__ = Killed
        return probe

    job = ask(store, epochs=50)
    with working(store, start):
        row = ended(store, job, 180)
    assert row.status == "succeeded", row.reason_detail
    # A kill may come when the piece of work is over: then nobody is to blame for it.
    assert STRIKES <= len(killed) < STRIKES + ATTEMPTS
    states = [t["status"] for t in Jobs(store).trials(job)]
    assert states[1] == "infeasible"
    assert "infeasible" not in states[:1] + states[2:]
    assert row.result["evidence"]["kind"] == "measured"
    assert not (store.settings.scratch / scratch.JOURNALS / job).exists()


def test_stopping_gives_back_at_once_and_the_next_worker_goes_on(store: Store) -> None:
    job = ask(store)
    with working(store, lambda backend: Quick(backend, pause=0.2)) as worker:
        until(lambda: Jobs(store).trials(job), "a trial is known")
        began = time.monotonic()
        worker.stop()
        until(lambda: Jobs(store).get(job).status == "queued", "it is given back")  # type: ignore[union-attr]
        assert time.monotonic() - began < 2
    with working(store, Quick):
        row = ended(store, job)
    assert (row.status, row.attempt) == ("succeeded", 1)


def test_what_killed_processes_leave_is_removed(store: Store) -> None:
    folder = store.settings.scratch
    old = time.time() - 7200
    gone, alive, upload, fresh = (
        folder / name for name in (f"{PREFIX}gone", f"{PREFIX}alive", "tmpold", "tmpnew")
    )
    for one in (gone, alive, upload, fresh):
        one.mkdir()
        (one / "stderr").touch()
        if one != fresh:
            os.utime(one, (old, old))
    ended_job, live_job = (ask(store) for _ in range(2))
    Jobs(store).cancel(ended_job)
    for job in (ended_job, live_job):
        scratch.journal(folder, job, 1)
    with (alive / "stderr").open("rb") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        jobs = Jobs(store)
        scratch.sweep(folder, abandoned, lambda job: jobs.get(job).status in ENDED)  # type: ignore[union-attr]
    left = {one.name for one in folder.iterdir()}
    assert left == {alive.name, fresh.name, scratch.JOURNALS}
    assert [one.name for one in (folder / scratch.JOURNALS).iterdir()] == [live_job]


def test_a_journal_is_taken_over_while_a_sleeper_still_holds_it(tmp_path: Path) -> None:
    first = scratch.journal(tmp_path, "rec_1", 1)
    (first / "pieces.log").write_text("half")
    with (first / "pieces.log").open("a") as sleeper:
        second = scratch.journal(tmp_path, "rec_1", 3)
        assert second != first
        sleeper.write("more")
    assert (second / "pieces.log").read_text() == "half"
    assert scratch.journal(tmp_path, "rec_1", 3) == second
    scratch.forget(tmp_path, "rec_1")
    assert not second.exists()


def test_what_cannot_be_written_now_is_written_later(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The ledger is locked by somebody for longer than a writer waits."""
    monkeypatch.setattr("api.store.BUSY_MILLISECONDS", 20)
    impatient = Store(store.settings)
    jobs = Leases(impatient)
    job = ask(store)
    claim = jobs.claim("w")
    assert claim is not None
    record = Record(claim, jobs)
    with contextlib.closing(
        sqlite3.connect(store.settings.data_dir / "ledger.sqlite3")
    ) as somebody:
        somebody.execute("BEGIN IMMEDIATE")
        for message in said(0, 2):
            record.hear(message)
        assert jobs.trials(job) == []
    record.write()
    jobs.finish(claim, "succeeded", result={})
    assert assert_sound(jobs, job) == "succeeded"
    assert [t["steps"] for t in jobs.trials(job)] == [20, 20, 20]
    impatient.close()
