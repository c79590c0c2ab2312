"""The life of a job: every transition is one guarded transaction, and leaves an event.

queued → running → succeeded | failed | timed_out
queued → cancelled        running → cancelling → cancelled
running → queued          where its worker is gone, as long as attempts are left
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import sqlalchemy as sa
from sqlalchemy import Connection, Row

from api.caller import LOCAL, Caller
from api.store import Store, events, jobs, new_id, newest, trials, workers

Plain = dict[str, Any]
Status = Literal["queued", "running", "cancelling", "succeeded", "failed", "timed_out", "cancelled"]
LIVE = ("queued", "running", "cancelling")
ENDED = ("succeeded", "failed", "timed_out", "cancelled")
NO_PROGRESS: Plain = {
    "trials_total": 0,
    "trials_done": 0,
    "trials_failed": 0,
    "fraction": 0.0,
    "eta_seconds": None,
    "best_so_far": None,
}
# Version of the events' data.
EVENT_VERSION = 1


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
    """

    def __init__(self, store: Store, caller: Caller | None = None) -> None:
        self._store = store
        self._settings = store.settings
        self._caller = caller

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
        job, now = new_id("rec"), time.time()
        tenant, key = (self._caller.tenant, self._caller.key) if self._caller else (LOCAL, None)
        with self._store.write() as connection:
            waiting = connection.scalar(
                sa.select(sa.func.count()).select_from(jobs).where(jobs.c.status == "queued")
            )
            if waiting >= self._settings.max_queued:
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
            _tell(connection, job, [("status", {"status": "queued", "attempt": 0})])
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
        shutil.rmtree(self._settings.scratch / "journal" / job, ignore_errors=True)
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
        with self._store.write() as connection:
            if (
                connection.scalar(sa.select(jobs.c.id).where(jobs.c.id == job, *self._own()))
                is None
            ):
                return
            waiting = _move(connection, job, ("queued",), status="cancelled", reason=_cancelled())
            if not waiting:
                _move(connection, job, ("running",), status="cancelling")

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
        with self._store.write() as connection:
            first = connection.execute(
                sa.select(jobs)
                .where(jobs.c.status == "queued")
                .order_by(jobs.c.created_at, jobs.c.id)
                .limit(1)
            ).one_or_none()
            if first is None:
                return None
            now = time.time()
            _move(
                connection,
                first.id,
                ("queued",),
                status="running",
                fence=first.fence + 1,
                attempt=first.attempt + 1,
                worker=worker,
                lease_until=now + self._settings.lease_seconds,
                started_at=first.started_at or now,
                progress=NO_PROGRESS,
            )
            # An earlier attempt's trials are made again from the start.
            connection.execute(trials.delete().where(trials.c.job_id == first.id))
        return Claim(first.id, first.fence + 1, first.attempt + 1, first.backend, first.spec)

    def beat(self, worker: str) -> None:
        """A sign of life: prolongs the leases of everything that the worker holds."""
        now = time.time()
        with self._store.write() as connection:
            connection.execute(
                jobs.update()
                .where(jobs.c.worker == worker, jobs.c.status.in_(("running", "cancelling")))
                .values(lease_until=now + self._settings.lease_seconds)
            )
            connection.execute(workers.delete().where(workers.c.id == worker))
            connection.execute(workers.insert().values(id=worker, seen_at=now))

    def asked_to_stop(self, claim: Claim) -> bool:
        """Whether the job is to be cancelled, or is no longer this claim's."""
        row = self.get(claim.id)
        return row is None or row.fence != claim.fence or row.status != "running"

    def note(self, claim: Claim, notes: Notes) -> None:
        """Write what a probe has to say, if the job is still this claim's."""
        with self._store.write() as connection:
            held = sa.and_(
                jobs.c.id == claim.id, jobs.c.fence == claim.fence, jobs.c.status == "running"
            )
            change: Plain = {"version": jobs.c.version + 1}
            if notes.progress is not None:
                change["progress"] = notes.progress
            if connection.execute(jobs.update().where(held).values(**change)).rowcount == 0:
                return
            for position, trial in notes.trials.items():
                connection.execute(
                    trials.delete().where(
                        trials.c.job_id == claim.id, trials.c.position == position
                    )
                )
                connection.execute(
                    trials.insert().values(job_id=claim.id, position=position, trial=trial)
                )
            _tell(connection, claim.id, notes.events)

    def finish(
        self,
        claim: Claim,
        status: str,
        *,
        result: Plain | None = None,
        reason: tuple[str, str] | None = None,
        usage: Plain | None = None,
    ) -> None:
        """End a job, if it is still this claim's; one that is to be cancelled is cancelled."""
        with self._store.write() as connection:
            row = connection.execute(
                sa.select(jobs).where(jobs.c.id == claim.id, jobs.c.fence == claim.fence)
            ).one_or_none()
            if row is None or row.status not in ("running", "cancelling"):
                return
            if row.status == "cancelling":
                status, result, reason = "cancelled", None, _cancelled()
            progress = dict(row.progress)
            if status == "succeeded":
                progress |= {"fraction": 1.0, "eta_seconds": 0.0}
            _move(
                connection,
                claim.id,
                (row.status,),
                status=status,
                reason=reason,
                result=result,
                usage=usage,
                progress=progress | {"eta_seconds": None},
            )
            _end_trials(connection, claim.id, status)

    def give_back(self, worker: str) -> None:
        """Return what a stopping worker holds to the queue; the attempt is not counted."""
        with self._store.write() as connection:
            held = connection.execute(
                sa.select(jobs).where(
                    jobs.c.worker == worker, jobs.c.status.in_(("running", "cancelling"))
                )
            ).all()
            for row in held:
                _requeue(connection, row, row.attempt - 1, "worker_stopped")
            connection.execute(workers.delete().where(workers.c.id == worker))

    def reap(self) -> None:
        """Take back what dead workers hold."""
        now = time.time()
        late = (jobs.c.status.in_(("running", "cancelling")), jobs.c.lease_until < now)
        with self._store.read() as connection:
            if connection.execute(sa.select(jobs.c.id).where(*late).limit(1)).first() is None:
                return
        with self._store.write() as connection:
            for row in connection.execute(sa.select(jobs).where(*late)).all():
                if row.status == "running" and row.attempt >= self._settings.attempts:
                    detail = (
                        f"The process that worked on it was lost {row.attempt} times. Ask again; "
                        "if it happens again, take a smaller model, batch or data set."
                    )
                    lost = ("worker_lost", detail)
                    _move(connection, row.id, ("running",), status="failed", reason=lost)
                    _end_trials(connection, row.id, "failed")
                else:
                    _requeue(connection, row, row.attempt, "worker_lost")
            silent = now - 10 * self._settings.lease_seconds
            connection.execute(workers.delete().where(workers.c.seen_at < silent))

    def workers_alive(self) -> int:
        """Workers that were heard of within a lease."""
        since = time.time() - self._settings.lease_seconds
        query = sa.select(sa.func.count()).select_from(workers).where(workers.c.seen_at > since)
        with self._store.read() as connection:
            return int(connection.scalar(query) or 0)


def erase(connection: Connection, gone: Sequence[str]) -> None:
    """Delete jobs with all that belongs to them."""
    for table in (trials, events):
        connection.execute(table.delete().where(table.c.job_id.in_(gone)))
    connection.execute(jobs.delete().where(jobs.c.id.in_(gone)))


def _cancelled() -> tuple[str, str]:
    return "cancelled", "Cancelled on request."


def _requeue(connection: Connection, row: Row[Any], attempt: int, why: str) -> None:
    """Back into the queue, or to its end where somebody has asked for that."""
    if row.status == "cancelling":
        _move(connection, row.id, ("cancelling",), status="cancelled", reason=_cancelled())
        _end_trials(connection, row.id, "cancelled")
        return
    _move(
        connection,
        row.id,
        ("running",),
        status="queued",
        attempt=attempt,
        # Whoever held it may wake up again: from now on its fence is not the job's.
        fence=row.fence + 1,
        worker=None,
        lease_until=None,
        progress=NO_PROGRESS,
        why=why,
    )


def _move(
    connection: Connection,
    job: str,
    from_: Sequence[str],
    *,
    status: str,
    reason: tuple[str, str] | None = None,
    why: str | None = None,
    **values: Any,
) -> bool:
    """One transition, with its event; False where the job was in none of the states `from_`."""
    ends = status in ENDED
    if ends:
        values |= {"finished_at": time.time(), "worker": None, "lease_until": None}
    changed = connection.execute(
        jobs.update()
        .where(jobs.c.id == job, jobs.c.status.in_(from_))
        .values(
            status=status,
            version=jobs.c.version + 1,
            reason_code=reason[0] if reason else None,
            reason_detail=reason[1] if reason else None,
            **values,
        )
        .returning(jobs.c.attempt)
    ).one_or_none()
    if changed is None:
        return False
    data: Plain = {"status": status, "attempt": changed.attempt}
    if why is not None:
        data["reason"] = why
    if reason is not None:
        data |= {"code": reason[0], "detail": reason[1]}
    told: list[tuple[str, Plain]] = [("status", data)]
    if ends:
        told.append(("done", {"status": status, "result": values.get("result")}))
    _tell(connection, job, told)
    return True


def _tell(connection: Connection, job: str, told: Sequence[tuple[str, Mapping[str, Any]]]) -> None:
    """Write events under the job's next numbers; the numbers are dense."""
    if not told:
        return
    last = connection.execute(
        jobs.update()
        .where(jobs.c.id == job)
        .values(last_seq=jobs.c.last_seq + len(told))
        .returning(jobs.c.last_seq)
    ).scalar_one()
    now = time.time()
    connection.execute(
        events.insert(),
        [
            {
                "job_id": job,
                "seq": last - len(told) + 1 + number,
                "at": now,
                "type": kind,
                "data": {"v": EVENT_VERSION, **data},
            }
            for number, (kind, data) in enumerate(told)
        ],
    )


def _end_trials(connection: Connection, job: str, status: str) -> None:
    """Trials that nobody goes on with are closed with the job."""
    last = "cancelled" if status == "cancelled" else "failed"
    for row in connection.execute(sa.select(trials).where(trials.c.job_id == job)).all():
        if row.trial["status"] in ("waiting", "running"):
            connection.execute(
                trials.update()
                .where(trials.c.job_id == job, trials.c.position == row.position)
                .values(trial={**row.trial, "status": last})
            )
