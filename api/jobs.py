"""Jobs as their callers see them: asked for, looked at, cancelled and deleted.

`api.leases` has what a worker does with them, and the states that they go through.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Connection, Row

from api import scratch
from api.caller import LOCAL, Caller
from api.store import Store, events, jobs, new_id, newest, trials, workers
from api.transitions import CANCELLED, LIVE, Plain, Step

NO_PROGRESS: Plain = {
    "trials_total": 0,
    "trials_done": 0,
    "trials_failed": 0,
    "fraction": 0.0,
    "eta_seconds": None,
    "best_so_far": None,
}


class QueueFull(Exception):
    """As many jobs wait as may."""


class QuotaExceeded(Exception):
    """The key has as many live jobs as it may."""


class InUse(Exception):
    """The job is live, so it cannot go."""


class Jobs:
    """The ledger of jobs.

    Args:
        store: Where it is kept.
        caller: Only this tenant's jobs are there; None sees everybody's.
        traceparent: The trace context in which jobs are asked for.
        clock: The time that is written down, in seconds since 1970; it may jump.
    """

    def __init__(
        self,
        store: Store,
        caller: Caller | None = None,
        *,
        traceparent: str | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._store = store
        self._settings = store.settings
        self._caller = caller
        self._traceparent = traceparent
        self._clock = clock

    def create(
        self,
        request: Plain,
        spec: Plain,
        backend: str,
        advice_before: Plain,
        also: Callable[[Connection, Row[Any]], None] | None = None,
    ) -> str:
        """Put a job into the queue.

        Args:
            request: As it came in.
            spec: What the probe is to do, see `recommender.executors.ProbeSpec`.
            backend: On which Keras backend.
            advice_before: The instant answer to it.
            also: What is done with its row in the same transaction.

        Returns:
            Its id.

        Raises:
            QueueFull: As many jobs wait as may.
            QuotaExceeded: The key has as many live jobs as it may.
            ApiError: The disk is nearly full.
        """
        self._store.must_have_room()
        job, now = new_id("rec"), self._clock()
        tenant, key = (self._caller.tenant, self._caller.key) if self._caller else (LOCAL, None)
        with self._store.write("create") as connection:
            waiting = connection.scalar(
                sa.select(sa.func.count()).select_from(jobs).where(jobs.c.status == "queued")
            )
            if (waiting or 0) >= self._settings.max_queued:
                raise QueueFull
            if key is not None and self._live(connection, key) >= self._settings.live_jobs_per_key:
                raise QuotaExceeded
            connection.execute(
                jobs.insert().values(
                    id=job,
                    tenant=tenant,
                    key=key,
                    traceparent=self._traceparent,
                    created_at=now,
                    expires_at=self._store.expiry(now),
                    status="queued",
                    version=0,
                    last_seq=0,
                    attempt=0,
                    fence=0,
                    request=request,
                    spec=spec,
                    backend=backend,
                    advice_before=advice_before,
                    progress=NO_PROGRESS,
                )
            )
            Step(connection, now).tell(job, [("status", {"status": "queued", "attempt": 0})])
            if also is not None:
                query = sa.select(jobs).where(jobs.c.id == job)
                also(connection, connection.execute(query).one())
        return job

    def get(self, job: str) -> Row[Any] | None:
        """A job's row, or None."""
        with self._store.read() as connection:
            query = sa.select(jobs).where(jobs.c.id == job, *self._own())
            return connection.execute(query).one_or_none()

    def newest(
        self, limit: int, before: str | None, status: str | None = None
    ) -> Sequence[Row[Any]]:
        """Jobs from the newest on, at most `limit`, older than `before`, in the state `status`."""
        where = () if status is None else (jobs.c.status == status,)
        tenant = self._caller.tenant if self._caller else LOCAL
        with self._store.read() as connection:
            return newest(connection, jobs, tenant, limit, before, *where)

    def delete(self, job: str) -> bool:
        """Remove a job that has ended, with its trials and events; False where there is none.

        Raises:
            InUse: It is live; deleting is not cancelling.
        """
        with self._store.write() as connection:
            query = sa.select(jobs.c.status).where(jobs.c.id == job, *self._own())
            status = connection.scalar(query)
            if status in LIVE:
                raise InUse
            if status is None:
                return False
            erase(connection, [job])
        scratch.forget(self._settings.scratch, job)
        return True

    def trials(self, job: str) -> list[Plain]:
        """A job's trials, in order of prior."""
        query = (
            sa.select(trials.c.trial)
            .join(jobs, jobs.c.id == trials.c.job_id)
            .where(jobs.c.id == job, *self._own())
            .order_by(trials.c.position)
        )
        with self._store.read() as connection:
            return list(connection.scalars(query))

    def logged(self, job: str) -> list[str]:
        """The lines of a job's log, in order."""
        query = (
            sa.select(events.c.data)
            .where(events.c.job_id == job, events.c.type == "log")
            .order_by(events.c.seq)
        )
        with self._store.read() as connection:
            return [data["text"] for data in connection.scalars(query)]

    def events(self, job: str, after: int, limit: int) -> Sequence[Row[Any]]:
        """A job's events with a number above `after`, in order."""
        with self._store.read() as connection:
            return self._events(connection, job, after, limit)

    def since(self, job: str, after: int, limit: int) -> tuple[Row[Any] | None, Sequence[Row[Any]]]:
        """A job's row, or None, and its events with a number above `after`, at one moment."""
        with self._store.read() as connection:
            query = sa.select(jobs).where(jobs.c.id == job, *self._own())
            row = connection.execute(query).one_or_none()
            return row, self._events(connection, job, after, limit)

    def _events(
        self, connection: Connection, job: str, after: int, limit: int
    ) -> Sequence[Row[Any]]:
        query = (
            sa.select(events)
            .join(jobs, jobs.c.id == events.c.job_id)
            .where(events.c.job_id == job, events.c.seq > after, *self._own())
            .order_by(events.c.seq)
            .limit(limit)
        )
        return connection.execute(query).all()

    def cancel(self, job: str) -> None:
        """Ask for the end of a job: at once where it waits, by its worker where it runs."""
        with self._store.write("cancel") as connection:
            mine = sa.select(jobs.c.id).where(jobs.c.id == job, *self._own())
            if connection.scalar(mine) is None:
                return
            step = Step(connection, self._clock())
            if not step.move(job, ("queued",), status="cancelled", reason=CANCELLED):
                step.move(job, ("running",), status="cancelling")

    def workers_alive(self) -> int:
        """Workers that were heard of within a lease."""
        now, lease = self._clock(), self._settings.lease_seconds
        heard = workers.c.seen_at.between(now - lease, now + lease)
        query = sa.select(sa.func.count()).select_from(workers).where(heard)
        with self._store.read() as connection:
            return int(connection.scalar(query) or 0)

    def _own(self) -> tuple[sa.ColumnElement[bool], ...]:
        """What must hold of a job that the caller may see."""
        return () if self._caller is None else (jobs.c.tenant == self._caller.tenant,)

    def _live(self, connection: Connection, key: str) -> int:
        query = sa.select(sa.func.count()).select_from(jobs)
        live = connection.scalar(query.where(jobs.c.key == key, jobs.c.status.in_(LIVE)))
        return int(live or 0)


def erase(connection: Connection, gone: Sequence[str]) -> None:
    """Delete jobs with all that belongs to them."""
    for table in (trials, events):
        connection.execute(table.delete().where(table.c.job_id.in_(gone)))
    connection.execute(jobs.delete().where(jobs.c.id.in_(gone)))
