"""The life of a job: every transition is one guarded transaction, and leaves an event.

queued → running → succeeded | failed | timed_out
queued → cancelled        running → cancelling → cancelled
running → queued          where its worker is gone, as long as attempts are left

What an attempt has measured stays: trials and progress are the next attempt's beginning.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import sqlalchemy as sa
from sqlalchemy import Connection, Row

from api import scratch
from api.caller import LOCAL, Caller
from api.store import Store, events, jobs, new_id, newest, trials, workers
from api.transitions import CANCELLED, HELD, LIVE, Plain, Step

NO_PROGRESS: Plain = {
    "trials_total": 0,
    "trials_done": 0,
    "trials_failed": 0,
    "fraction": 0.0,
    "eta_seconds": None,
    "best_so_far": None,
}
# What a worker may do with a job that it has claimed.
Standing = Literal["held", "cancelling", "lost"]


class QueueFull(Exception):
    """As many jobs wait as may."""


class QuotaExceeded(Exception):
    """The key has as many live jobs as it may."""


class InUse(Exception):
    """The job is live, so it cannot go."""


@dataclass(frozen=True)
class Claim:
    """A worker's hold on a job: what it writes counts only while the fence is the job's."""

    id: str
    fence: int
    attempt: int
    backend: str
    spec: Plain


@dataclass
class Notes:
    """What a probe has to say since the last time: written in one transaction.

    Attributes:
        events: (type, data) in order.
        trials: Trials that changed, by position.
        progress: The job's progress; None leaves it.
    """

    events: list[tuple[str, Plain]] = field(default_factory=list)
    trials: dict[int, Plain] = field(default_factory=dict)
    progress: Plain | None = None

    def __bool__(self) -> bool:
        """Whether there is anything to write."""
        return bool(self.events or self.trials or self.progress)


class Jobs:
    """The ledger of jobs.

    Args:
        store: Where it is kept.
        caller: Only this tenant's jobs are there; None sees everybody's, as workers must.
        clock: The time that is written down, in seconds since 1970; it may jump.
        ticks: A clock that never jumps, of this process; leases of others are watched by it.
    """

    def __init__(
        self,
        store: Store,
        caller: Caller | None = None,
        *,
        clock: Callable[[], float] = time.time,
        ticks: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store = store
        self._settings = store.settings
        self._caller = caller
        self._clock = clock
        self._ticks = ticks
        # What each held job's lease was when this process first saw it so, and when that was.
        self._watched: dict[str, tuple[tuple[int, float], float]] = {}

    # --- the API's side ---

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
        query = (
            sa.select(events)
            .join(jobs, jobs.c.id == events.c.job_id)
            .where(events.c.job_id == job, events.c.seq > after, *self._own())
            .order_by(events.c.seq)
            .limit(limit)
        )
        with self._store.read() as connection:
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

    def _own(self) -> tuple[sa.ColumnElement[bool], ...]:
        """What must hold of a job that the caller may see."""
        return () if self._caller is None else (jobs.c.tenant == self._caller.tenant,)

    def _live(self, connection: Connection, key: str) -> int:
        query = sa.select(sa.func.count()).select_from(jobs)
        live = connection.scalar(query.where(jobs.c.key == key, jobs.c.status.in_(LIVE)))
        return int(live or 0)

    # --- the worker's side ---

    def claim(self, worker: str) -> Claim | None:
        """Take the job that waits longest; None where none waits."""
        with self._store.write("claim") as connection:
            first = connection.execute(
                sa.select(jobs)
                .where(jobs.c.status == "queued")
                .order_by(jobs.c.created_at, jobs.c.id)
                .limit(1)
            ).one_or_none()
            if first is None:
                return None
            now = self._clock()
            Step(connection, now).move(
                first.id,
                ("queued",),
                status="running",
                fence=first.fence + 1,
                attempt=first.attempt + 1,
                worker=worker,
                lease_until=now + self._settings.lease_seconds,
                started_at=first.started_at or now,
            )
        return Claim(first.id, first.fence + 1, first.attempt + 1, first.backend, first.spec)

    def beat(self, worker: str) -> None:
        """A sign of life: prolongs the leases of everything that the worker holds."""
        now = self._clock()
        with self._store.write("beat") as connection:
            connection.execute(
                jobs.update()
                .where(jobs.c.worker == worker, jobs.c.status.in_(HELD))
                .values(lease_until=now + self._settings.lease_seconds)
            )
            connection.execute(workers.delete().where(workers.c.id == worker))
            connection.execute(workers.insert().values(id=worker, seen_at=now))

    def standing(self, claim: Claim) -> Standing:
        """Whether the job is still this claim's, and whether somebody wants it to end."""
        row = self.get(claim.id)
        if row is None or row.fence != claim.fence or row.status not in HELD:
            return "lost"
        return "cancelling" if row.status == "cancelling" else "held"

    def note(self, claim: Claim, notes: Notes) -> None:
        """Write what a probe has to say, if the job is still this claim's."""
        with self._store.write("note") as connection:
            held = sa.and_(
                jobs.c.id == claim.id, jobs.c.fence == claim.fence, jobs.c.status.in_(HELD)
            )
            change: Plain = {"version": jobs.c.version + 1}
            if notes.progress is not None:
                change["progress"] = notes.progress
            if connection.execute(jobs.update().where(held).values(**change)).rowcount == 0:
                return
            step = Step(connection, self._clock())
            for position, trial in notes.trials.items():
                step.put_trial(claim.id, position, trial)
            step.tell(claim.id, notes.events)

    def finish(
        self,
        claim: Claim,
        status: str,
        *,
        result: Plain | None = None,
        reason: tuple[str, str] | None = None,
        usage: Plain | None = None,
    ) -> None:
        """End a job, if it is still this claim's; one that is to be cancelled is cancelled.

        Args:
            claim: The hold on it.
            status: How it ended.
            result: The answer; of a job that did not succeed, what was known by then.
            reason: Code and detail, unless it succeeded.
            usage: What it took.
        """
        with self._store.write("finish") as connection:
            row = connection.execute(
                sa.select(jobs).where(jobs.c.id == claim.id, jobs.c.fence == claim.fence)
            ).one_or_none()
            if row is None or row.status not in HELD:
                return
            if row.status == "cancelling":
                status, reason = "cancelled", CANCELLED
            progress = dict(row.progress)
            if status == "succeeded":
                progress |= {"fraction": 1.0, "eta_seconds": 0.0}
            Step(connection, self._clock()).move(
                claim.id,
                (row.status,),
                status=status,
                reason=reason,
                result=result,
                partial=result is not None and status != "succeeded",
                usage=usage,
                progress=progress | {"eta_seconds": None},
            )

    def give_back(self, worker: str) -> None:
        """Return what a stopping worker holds to the queue; the attempt is not counted."""
        with self._store.write("give_back") as connection:
            step = Step(connection, self._clock())
            held = connection.execute(
                sa.select(jobs).where(jobs.c.worker == worker, jobs.c.status.in_(HELD))
            ).all()
            for row in held:
                step.requeue(row, row.attempt - 1, "worker_stopped")
            connection.execute(workers.delete().where(workers.c.id == worker))

    def reap(self) -> None:
        """Take back what dead workers hold; asked often, since it also watches leases."""
        late = self._late()
        if not late:
            return
        with self._store.write("reap") as connection:
            now = self._clock()
            step = Step(connection, now)
            for row in connection.execute(sa.select(jobs).where(jobs.c.id.in_(late))).all():
                if (row.fence, row.lease_until) != late[row.id]:
                    continue  # somebody was quicker, or its worker lives
                if row.status == "running" and row.attempt >= self._settings.attempts:
                    detail = (
                        f"The process that worked on it was lost {row.attempt} times. Ask again; "
                        "if it happens again, take a smaller model, batch or data set."
                    )
                    step.move(row.id, ("running",), status="failed", reason=("worker_lost", detail))
                else:
                    step.requeue(row, row.attempt, "worker_lost")
            silent = now - 10 * self._settings.lease_seconds
            connection.execute(workers.delete().where(workers.c.seen_at < silent))

    def _late(self) -> dict[str, tuple[int, float]]:
        """Jobs whose worker is dead, with the fence and the lease that show it.

        A lease says when it ends, but clocks jump. So one that is over must have stood still for
        half its length before our eyes, and one that stands still for its whole length is over.
        """
        now, ticks, lease = self._clock(), self._ticks(), self._settings.lease_seconds
        query = sa.select(jobs.c.id, jobs.c.fence, jobs.c.lease_until).where(
            jobs.c.status.in_(HELD)
        )
        with self._store.read() as connection:
            held = connection.execute(query).all()
        before, self._watched = self._watched, {}
        late = {}
        for row in held:
            mark = (row.fence, row.lease_until)
            known, since = before.get(row.id, (mark, ticks))
            since = since if known == mark else ticks
            self._watched[row.id] = (mark, since)
            if ticks - since > (lease / 2 if row.lease_until < now else lease):
                late[row.id] = mark
        return late

    def workers_alive(self) -> int:
        """Workers that were heard of within a lease."""
        now, lease = self._clock(), self._settings.lease_seconds
        heard = workers.c.seen_at.between(now - lease, now + lease)
        query = sa.select(sa.func.count()).select_from(workers).where(heard)
        with self._store.read() as connection:
            return int(connection.scalar(query) or 0)


def erase(connection: Connection, gone: Sequence[str]) -> None:
    """Delete jobs with all that belongs to them."""
    for table in (trials, events):
        connection.execute(table.delete().where(table.c.job_id.in_(gone)))
    connection.execute(jobs.delete().where(jobs.c.id.in_(gone)))
