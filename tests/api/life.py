"""The life of a service in one process, through every step that writes; it may be cut anywhere."""

from __future__ import annotations

import io
import json
import threading
import time
from pathlib import Path

import sqlalchemy as sa

from api import failpoints
from api.caller import ANYBODY_HERE
from api.leases import Claim, Leases
from api.library import Library
from api.settings import Settings
from api.store import Store, datasets, models
from api.transitions import ENDED, HELD
from api.worker import Worker
from tests.api.quick import SPEC, Quick
from tests.api.server import NET, npz

JOBS = 5
ACCEPTED = "accepted.txt"


def settings(folder: Path) -> Settings:
    """Leases and looks that are short enough for tests."""
    return Settings(data_dir=folder, lease_seconds=0.3, poll_seconds=0.02, attempts=50, slots=2)


def live(folder: Path, failpoint: str = "") -> None:
    """Upload, ask, work, cancel, stop in the middle, work on; ends when all jobs have ended.

    Args:
        folder: Of the data; what an earlier life has left there is gone on with.
        failpoint: Where to die.
    """
    failpoints.arm(failpoint)
    store = Store(settings(folder))
    store.migrate()
    jobs = Leases(store)
    _upload(store)
    while len(jobs.newest(100, None)) < JOBS:
        seed = len(jobs.newest(100, None))
        job = jobs.create({}, {**SPEC, "seed": seed}, "jax", {})
        with (folder / ACCEPTED).open("a") as file:
            file.write(f"{job}\n")
    _ghost(jobs)
    ids = sorted(row.id for row in jobs.newest(100, None))
    _work(store, jobs, ids, until=2, cancel=ids[1])
    _work(store, jobs, ids, until=JOBS)
    store.close()


def _upload(store: Store) -> None:
    library = Library(store, ANYBODY_HERE)
    with store.read() as connection:
        have = [connection.execute(sa.select(t.c.id)).first() for t in (models, datasets)]
    if have[0] is None:
        library.add_model_config(json.dumps(NET).encode())
    if have[1] is None:
        library.add_dataset(io.BytesIO(npz(x=[[0.0], [1.0]] * 20, y=[[0.0], [1.0]] * 20)))


def _ghost(jobs: Leases) -> Claim | None:
    """Somebody takes a job and is never heard of again."""
    return jobs.claim("ghost")


def _work(store: Store, jobs: Leases, ids: list[str], until: int, cancel: str = "") -> None:
    """A worker, stopped once so many jobs have ended; one job is cancelled when it runs."""
    worker = Worker(store.settings, lambda backend: Quick(backend, pause=0.004))
    thread = threading.Thread(target=worker.run)
    thread.start()
    try:
        while True:
            states = {job: row.status for job in ids if (row := jobs.get(job)) is not None}
            if sum(state in ENDED for state in states.values()) >= until:
                return
            if states.get(cancel) in HELD:
                jobs.cancel(cancel)
                cancel = ""
            time.sleep(0.005)
    finally:
        worker.stop()
        thread.join()
