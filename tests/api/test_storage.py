"""A disk that is full, a ledger that is locked or read-only, damaged files: said, and got over."""

from __future__ import annotations

import contextlib
import ctypes
import sqlite3
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from api.jobs import Jobs
from api.leases import Leases
from api.settings import Settings
from api.store import Store
from api.worker import Worker
from recommender.executors import Executor, jail
from tests.api.fleet import LEASE, Fleet, fleet
from tests.api.quick import SPEC, Quick
from tests.api.server import DIGITS, npz, regression, until

pytestmark = [
    pytest.mark.backend_free,
    pytest.mark.skipif(sys.platform != "linux", reason="limits processes"),
]
SAYS_FULL = (503, 507)
# How long a request waits for a locked ledger, and what it may take beside.
WAITS, MORE = 5.0, 3.0


@pytest.fixture(scope="module")
def steady(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    """A fleet that is left as it was found."""
    with fleet(tmp_path_factory.mktemp("steady") / "data", 1, QUICK_PAUSE="0.02") as made:
        yield made


def running(made: Fleet) -> str:
    """A job that a worker is at."""
    job = made.ask()
    assert job is not None
    until(lambda: made.jobs.trials(job), "it runs")
    return job


def assert_recovered(made: Fleet, *jobs: str) -> None:
    """These jobs succeed, and one that is asked for now; no process has ended."""
    later = made.ask()
    assert later is not None
    assert set(made.ended([*jobs, later])) == {"succeeded"}
    assert all(process.poll() is None for process in made.processes.values())


def test_a_full_disk_is_said_and_recovered_from(steady: Fleet) -> None:
    job = running(steady)
    steady.limit_files(4096)
    try:
        response = steady.http.post("/v1/recommendations", json=DIGITS)
        assert response.status_code in SAYS_FULL, response.text
        assert response.headers["content-type"] == "application/problem+json"
        upload = steady.http.post("/v1/datasets", files={"file": npz(**regression())})
        assert upload.status_code == 507
        assert upload.json()["code"] == "storage_full"
        assert steady.http.get("/livez").status_code == 200
        assert steady.http.get(f"/v1/recommendations/{job}").status_code == 200
        time.sleep(2 * LEASE)
    finally:
        steady.limit_files(-1)
    assert_recovered(steady, job)


@pytest.mark.parametrize("seconds", [5, pytest.param(30, marks=pytest.mark.slow)])
def test_a_locked_ledger_is_said_and_recovered_from(seconds: int, steady: Fleet) -> None:
    job = running(steady)
    ledger = steady.settings.data_dir / "ledger.sqlite3"
    with contextlib.closing(sqlite3.connect(ledger, isolation_level=None)) as somebody:
        somebody.execute("BEGIN IMMEDIATE")
        until_ = time.monotonic() + seconds
        while time.monotonic() < until_:
            began = time.monotonic()
            response = steady.http.post("/v1/recommendations", json=DIGITS)
            assert response.status_code == 503
            assert response.json()["code"] == "database_unavailable"
            assert response.headers["Retry-After"]
            assert WAITS - MORE < time.monotonic() - began < WAITS + MORE
            assert steady.http.get(f"/v1/recommendations/{job}").status_code == 200
            assert steady.http.get("/livez").status_code == 200
    assert_recovered(steady, job)


@pytest.mark.skipif(
    sys.platform == "linux" and not jail.landlock_version(ctypes.CDLL(None, use_errno=True)),
    reason="without Landlock root may write everything",
)
def test_a_disk_that_can_only_be_read_answers_reads_and_refuses_writes(steady: Fleet) -> None:
    job = running(steady)
    steady.ended([job])
    before = steady.http.get(f"/v1/recommendations/{job}/events").json()
    steady.stop("web")
    steady.start("web", "tests.api.readonly")
    try:
        assert steady.http.get("/livez").status_code == 200
        ready = steady.http.get("/readyz")
        assert ready.status_code == 503
        assert ready.json()["checks"]["ledger"] == "OperationalError"
        assert steady.http.get(f"/v1/recommendations/{job}/events").json() == before
        for path, sent in (
            ("/v1/recommendations", {"json": DIGITS}),
            (f"/v1/recommendations/{job}/cancel", {}),
            ("/v1/datasets", {"files": {"file": npz(**regression())}}),
        ):
            response = steady.http.post(path, **sent)
            assert response.status_code in SAYS_FULL, response.text
            assert response.headers["content-type"] == "application/problem+json"
            assert str(steady.settings.data_dir) not in response.text
    finally:
        steady.stop("web")
        steady.start("web")
    assert_recovered(steady)


@pytest.mark.parametrize("damage", ["one digit", "cut off", "gone"])
def test_an_upload_that_has_changed_on_the_disk_is_not_trained_on(
    damage: str, tmp_path: Path
) -> None:
    """A digit that flips in a table is a valid table: only the checksum tells."""

    def starts(backend: str) -> Executor:
        return Quick(backend)

    store = Store(Settings(data_dir=tmp_path, sandbox="off"))
    store.migrate()
    table = b"x,y\n" + b"".join(b"%d,%d\n" % (n, 2 * n) for n in range(20))

    def kept() -> str:
        file = tmp_path / "table"
        file.write_bytes(table)
        digest = store.digest(file)
        store.keep(file, digest)
        return digest

    digest = kept()
    blob = store.blob(digest)
    if damage == "gone":
        blob.unlink()
    else:
        blob.write_bytes(table.replace(b"7,14", b"7,15") if "digit" in damage else table[:-9])
    data = {"kind": "blob", "sha256": digest, "format": "csv", "target": "y"}
    jobs, worker = Leases(store), Worker(store.settings, starts)

    def outcome() -> tuple[str, str | None]:
        job = Jobs(store).create({}, {**SPEC, "data": data}, "jax", {})
        claim = jobs.claim(worker.id)
        assert claim is not None
        worker._work(claim)
        row = jobs.get(job)
        assert row is not None
        return row.status, row.reason_code

    assert outcome() == ("failed", "data_damaged")
    kept()
    assert outcome() == ("succeeded", None), "the same upload again mends it"
    store.close()
