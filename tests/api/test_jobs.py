"""The ledger: guarded transitions, fences, dense numbers, and what a dead worker leaves."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from api import store as tables
from api.caller import ANYBODY_HERE
from api.errors import ApiError
from api.jobs import Jobs, QueueFull
from api.leases import Claim, Leases, Notes
from api.library import Library
from api.settings import Settings
from api.store import Store, new_id

pytestmark = pytest.mark.backend_free

LEASE = 0.2


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    made = Store(Settings(data_dir=tmp_path, lease_seconds=LEASE, max_queued=5, attempts=2))
    made.migrate()
    yield made
    made.close()


@pytest.fixture
def jobs(store: Store) -> Leases:
    return Leases(store)


def create(jobs: Jobs) -> str:
    return jobs.create({"label": None}, {"max_seconds": 10}, "jax", {"answer": 1})


def claimed(jobs: Leases, worker: str = "w1") -> Claim:
    claim = jobs.claim(worker)
    assert claim is not None
    return claim


def told(jobs: Jobs, job: str) -> list[tuple[int, str, Any]]:
    return [(e.seq, e.type, e.data.get("status")) for e in jobs.events(job, 0, 1000)]


def status(jobs: Jobs, job: str) -> str:
    row = jobs.get(job)
    assert row is not None
    return str(row.status)


def test_ids_sort_by_time_and_never_meet() -> None:
    made = []
    for _ in range(50):
        made.append(new_id("rec"))
        time.sleep(0.0011)
    assert made == sorted(made)
    assert len({new_id("rec") for _ in range(10_000)}) == 10_000


def test_a_job_is_done_once(jobs: Leases) -> None:
    job = create(jobs)
    claim = claimed(jobs)
    assert (claim.id, claim.attempt) == (job, 1)
    assert jobs.claim("w2") is None
    jobs.finish(claim, "succeeded", result={"found": 1}, usage={"cpu_seconds": 2.0})
    jobs.finish(claim, "failed", reason=("internal", "too late"))
    row = jobs.get(job)
    assert row is not None
    assert (row.status, row.result, row.reason_code) == ("succeeded", {"found": 1}, None)
    assert told(jobs, job) == [
        (1, "status", "queued"),
        (2, "status", "running"),
        (3, "status", "succeeded"),
        (4, "done", "succeeded"),
    ]


def test_jobs_are_taken_in_the_order_they_came(jobs: Leases) -> None:
    made = [create(jobs) for _ in range(4)]
    assert [claimed(jobs).id for _ in made] == made


def test_no_more_wait_than_may(jobs: Leases) -> None:
    for _ in range(5):
        create(jobs)
    with pytest.raises(QueueFull):
        create(jobs)
    claimed(jobs)
    create(jobs)


def test_two_workers_never_take_the_same_job(store: Store) -> None:
    made = {create(Jobs(store)) for _ in range(5)}
    taken: list[str] = []

    def take(worker: str) -> None:
        own = Store(store.settings)
        while claim := Leases(own).claim(worker):
            taken.append(claim.id)
        own.close()

    threads = [threading.Thread(target=take, args=(f"w{i}",)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(taken) == sorted(made)


def test_what_a_dead_worker_held_goes_back_and_its_fence_no_longer_counts(jobs: Leases) -> None:
    job = create(jobs)
    zombie = claimed(jobs)
    jobs.note(zombie, Notes(trials={0: {"status": "running"}}, events=[("log", {"text": "a"})]))
    jobs.reap()
    assert status(jobs, job) == "running", "its lease still holds"
    time.sleep(1.5 * LEASE)
    jobs.reap()
    assert status(jobs, job) == "queued"
    assert jobs.standing(zombie) == "lost"
    jobs.note(zombie, Notes(events=[("log", {"text": "from the grave"})]))
    jobs.finish(zombie, "succeeded", result={})
    assert status(jobs, job) == "queued"
    second = claimed(jobs, "w2")
    assert (second.attempt, second.fence) == (2, zombie.fence + 2)
    assert jobs.trials(job) == [{"status": "running"}], "what was measured stays"
    jobs.note(zombie, Notes(events=[("log", {"text": "from the grave"})]))
    jobs.finish(second, "succeeded", result={"by": 2})
    row = jobs.get(job)
    assert row is not None
    assert row.result == {"by": 2}
    texts = [e.data.get("text") for e in jobs.events(job, 0, 100)]
    assert "from the grave" not in texts
    numbers = [seq for seq, *_ in told(jobs, job)]
    assert numbers == list(range(1, len(numbers) + 1))


def test_a_sign_of_life_keeps_a_lease(jobs: Leases) -> None:
    job = create(jobs)
    claimed(jobs, "alive")
    for _ in range(4):
        time.sleep(LEASE / 2)
        jobs.beat("alive")
        jobs.reap()
    assert status(jobs, job) == "running"
    assert jobs.workers_alive() == 1


def test_workers_that_are_long_silent_are_forgotten(store: Store) -> None:
    now = [1e9]
    jobs = Leases(store, clock=lambda: now[0], ticks=lambda: now[0])
    jobs.beat("of last week")
    now[0] += 20 * LEASE
    create(jobs)
    claimed(jobs, "dead")
    jobs.reap()
    now[0] += 2 * LEASE
    jobs.beat("alive")
    jobs.reap()
    with store.read() as connection:
        assert list(connection.scalars(sa.select(tables.workers.c.id))) == ["alive"]


def test_a_worker_of_the_future_is_not_alive(store: Store) -> None:
    now = [1e9]
    jobs = Leases(store, clock=lambda: now[0])
    jobs.beat("before the clock was set back")
    assert jobs.workers_alive() == 1
    now[0] -= 3600
    assert jobs.workers_alive() == 0


def test_nothing_is_asked_for_while_the_disk_is_nearly_full(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store, "free_share", lambda: 0.01)
    with pytest.raises(ApiError) as refused:
        create(Jobs(store))
    assert refused.value.code == "storage_full"
    assert not Jobs(store).newest(1, None)


def test_a_job_that_loses_its_worker_too_often_fails(jobs: Leases) -> None:
    job = create(jobs)
    for attempt in (1, 2):
        assert claimed(jobs).attempt == attempt
        jobs.reap()
        time.sleep(1.5 * LEASE)
        jobs.reap()
    row = jobs.get(job)
    assert row is not None
    assert (row.status, row.reason_code) == ("failed", "worker_lost")
    assert "2 times" in row.reason_detail
    assert told(jobs, job)[-1][1] == "done"


def test_a_cancelled_job_stays_cancelled(jobs: Leases) -> None:
    waiting = create(jobs)
    jobs.cancel(waiting)
    assert status(jobs, waiting) == "cancelled"
    assert jobs.claim("w") is None
    running = create(jobs)
    claim = claimed(jobs)
    jobs.cancel(running)
    assert status(jobs, running) == "cancelling"
    assert jobs.standing(claim) == "cancelling"
    jobs.note(claim, Notes(events=[("log", {"text": "late"})]))
    # It comes too late to succeed, and what was found is kept.
    jobs.finish(claim, "succeeded", result={"found": 1})
    row = jobs.get(running)
    assert row is not None
    assert (row.status, row.result, row.reason_code) == ("cancelled", {"found": 1}, "cancelled")
    assert row.partial
    before = told(jobs, running)
    jobs.cancel(running)
    assert told(jobs, running) == before


def test_a_job_that_is_cancelled_while_its_worker_is_dead_ends(jobs: Leases) -> None:
    job = create(jobs)
    claimed(jobs)
    jobs.cancel(job)
    jobs.reap()
    time.sleep(1.5 * LEASE)
    jobs.reap()
    assert status(jobs, job) == "cancelled"


def test_what_a_stopping_worker_holds_waits_for_the_next_one(jobs: Leases) -> None:
    job = create(jobs)
    claimed(jobs, "w1")
    jobs.give_back("w1")
    assert status(jobs, job) == "queued"
    assert claimed(jobs, "w2").attempt == 1, "stopping in order is no attempt"


def test_trials_are_closed_with_their_job(jobs: Leases) -> None:
    job = create(jobs)
    claim = claimed(jobs)
    states = {0: "completed", 1: "running", 2: "waiting"}
    jobs.note(claim, Notes(trials={i: {"status": s} for i, s in states.items()}))
    jobs.finish(claim, "failed", reason=("probe_died", "x"))
    assert [t["status"] for t in jobs.trials(job)] == ["completed", "failed", "failed"]


def test_the_migrations_make_the_tables_that_the_code_uses(store: Store) -> None:
    with store.read() as connection:
        inspector = sa.inspect(connection)
        for table in tables.metadata.tables.values():
            made = {c["name"]: c for c in inspector.get_columns(table.name)}
            assert set(made) == {c.name for c in table.columns}
            for column in table.columns:
                assert made[column.name]["nullable"] == column.nullable, column
            keys = inspector.get_pk_constraint(table.name)["constrained_columns"]
            assert keys == [c.name for c in table.primary_key.columns]
    store.migrate()  # a second time is none


def test_what_is_written_survives_a_kill(tmp_path: Path) -> None:
    """A process that writes and is killed at once has written all or nothing."""
    import os
    import signal
    import subprocess
    import sys

    program = (
        "import sys\n"
        "from pathlib import Path\n"
        "from api.jobs import Jobs\n"
        "from api.settings import Settings\n"
        "from api.store import Store\n"
        "store = Store(Settings(data_dir=Path(sys.argv[1]), max_queued=100000))\n"
        "store.migrate()\n"
        "while True:\n"
        "    print(Jobs(store).create({}, {}, 'jax', {}), flush=True)\n"
    )
    command = [sys.executable, "-c", program, str(tmp_path)]
    running = subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2]
    )
    assert running.stdout is not None
    accepted = [running.stdout.readline().strip() for _ in range(30)]
    os.kill(running.pid, signal.SIGKILL)
    accepted += running.stdout.read().split()
    running.wait()
    running.stdout.close()
    store = Store(Settings(data_dir=tmp_path))
    ledger = Leases(store)
    for job in accepted:
        assert told(ledger, job) == [(1, "status", "queued")]
    rows = ledger.newest(100_000, None)
    assert len(accepted) <= len(rows) <= len(accepted) + 1
    assert all(len(told(ledger, row.id)) == 1 for row in rows)
    store.close()


@pytest.mark.parametrize("jump", [-3600.0, 3600.0])
def test_a_clock_that_jumps_takes_no_job_from_a_living_worker(store: Store, jump: float) -> None:
    now, ticks = [1e9], [0.0]
    jobs = Leases(store, clock=lambda: now[0], ticks=lambda: ticks[0])
    job = create(jobs)
    claimed(jobs, "alive")
    jobs.reap()
    now[0] += jump
    for _ in range(20):
        for clock in (now, ticks):
            clock[0] += LEASE / 4
        jobs.reap()
        jobs.beat("alive")
    assert status(jobs, job) == "running"
    assert jobs.workers_alive() == 1


@pytest.mark.parametrize("jump", [-3600.0, 3600.0])
def test_a_clock_that_jumps_keeps_no_job_with_a_dead_worker(store: Store, jump: float) -> None:
    now, ticks = [1e9], [0.0]
    jobs = Leases(store, clock=lambda: now[0], ticks=lambda: ticks[0])
    job = create(jobs)
    claimed(jobs, "dead")
    jobs.reap()
    now[0] += jump
    for _ in range(5):
        for clock in (now, ticks):
            clock[0] += LEASE / 4
        jobs.reap()
    assert status(jobs, job) == "queued"


def test_a_database_of_the_first_version_keeps_its_jobs(tmp_path: Path) -> None:
    """Rows as the first version wrote them, by its own migration alone."""
    import alembic.command
    import alembic.config

    store = Store(Settings(data_dir=tmp_path))
    config = alembic.config.Config()
    folder = Path(tables.__file__).parent / "migrations"
    config.set_main_option("script_location", str(folder))
    job, model, data = (new_id(prefix) for prefix in ("rec", "mdl", "dst"))
    columns = "id, created_at, status, version, last_seq, attempt, fence, request, spec, backend"
    rows = {
        "INSERT INTO models VALUES (?, 1.0, '{}', '{}', 3)": (model,),
        "INSERT INTO datasets VALUES (?, 1.0, '{}', 'ab', 4)": (data,),
        f"INSERT INTO jobs ({columns}, advice_before, progress) VALUES "  # noqa: S608 - our names
        "(?, 1.0, 'queued', 0, 1, 0, 0, '{}', ?, 'jax', '{}', '{}')": (job, '{"a": 1}'),
        "INSERT INTO events VALUES (?, 1, 1.0, 'status', '{}')": (job,),
    }
    with store.write() as connection:
        config.attributes["connection"] = connection
        alembic.command.upgrade(config, "0001")
        for statement, values in rows.items():
            connection.exec_driver_sql(statement, values)
    store.migrate()
    ledger = Jobs(store, ANYBODY_HERE)
    row = ledger.get(job)
    assert row is not None
    assert (row.tenant, row.expires_at) == ("local", None)
    assert [one.id for one in Library(store, ANYBODY_HERE).models(9, None)] == [model]
    assert [one.id for one in Library(store, ANYBODY_HERE).datasets(9, None)] == [data]
    claim = Leases(store).claim("w")
    assert claim is not None
    assert (claim.id, claim.spec, claim.traceparent) == (job, {"a": 1}, None)
    Leases(store).finish(claim, "failed", reason=("internal", "x"))
    assert [one[:2] for one in told(ledger, job)] == [
        (1, "status"),
        (2, "status"),
        (3, "status"),
        (4, "done"),
    ]
    with store.write() as connection:
        config.attributes["connection"] = connection
        alembic.command.downgrade(config, "0001")
        assert connection.exec_driver_sql("SELECT count(*) FROM jobs").scalar() == 1
    store.close()


def test_what_is_asked_often_has_an_index(store: Store) -> None:
    with store.read() as connection:
        for table in ("jobs", "models", "datasets", "keys"):
            query = (
                f"SELECT * FROM {table} WHERE tenant = 'a' AND id < 'x' ORDER BY id DESC LIMIT 5"  # noqa: S608
            )
            plan = connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {query}").all()
            assert "INDEX" in str(plan)
            assert f"ix_{table}_tenant_id" in str(plan), plan
            assert "TEMP B-TREE" not in str(plan)
