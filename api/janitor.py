"""Deletes what has expired, once a minute, and files that nobody refers to."""

from __future__ import annotations

import logging
import shutil
import threading
import time

import sqlalchemy as sa

from api.jobs import erase
from api.library import in_use
from api.once import forget_old
from api.store import Store, datasets, jobs, models
from api.transitions import LIVE

logger = logging.getLogger(__name__)

PAUSE_SECONDS = 60.0


class Janitor:
    """Sweeps in a thread of its own until it is stopped.

    Args:
        store: What it sweeps.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="janitor", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> None:
        """End, and wait for it."""
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stop.wait(PAUSE_SECONDS):
            try:
                sweep(self._store)
            except Exception:  # the next time may find the disk free again
                logger.exception("sweep")


def sweep(store: Store) -> None:
    """Delete what has expired and is not in use, and answers and files that are no longer needed.

    Args:
        store: What is swept.
    """
    now = time.time()
    with store.write() as connection:
        ended = (jobs.c.expires_at < now, jobs.c.status.not_in(LIVE))
        gone = connection.scalars(sa.select(jobs.c.id).where(*ended)).all()
        erase(connection, gone)
        for table in (models, datasets):
            connection.execute(table.delete().where(table.c.expires_at < now, ~in_use(table)))
        forget_old(connection)
        # Blobs are placed in transactions that write: while this one lasts, none is on its way.
        store.drop_unreferenced(
            connection, [path.name for path in store.settings.blobs.glob("*/*")]
        )
    for job in gone:
        shutil.rmtree(store.settings.scratch / "journal" / job, ignore_errors=True)
