"""Jobs as workers hold them: every transition is one guarded transaction, and leaves an event.

queued → running → succeeded | failed | timed_out
queued → cancelled        running → cancelling → cancelled
running → queued          where its worker is gone, as long as attempts are left

What an attempt has measured stays: trials and progress are the next attempt's beginning.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

import sqlalchemy as sa

from api.jobs import Jobs
from api.store import Store, jobs, workers
from api.transitions import CANCELLED, HELD, Plain, Step

# What a worker may do with a job that it has claimed.
Standing = Literal["held", "cancelling", "lost"]


@dataclass(frozen=True)
class Claim:
    """A worker's hold on a job: what it writes counts only while the fence is the job's."""

    id: str
    fence: int
    attempt: int
    backend: str
    spec: Plain
    traceparent: str | None = None


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


class Leases(Jobs):
    """The ledger of everybody's jobs, and what a worker does with those that it holds.

    Args:
        store: Where it is kept.
        clock: The time that is written down, in seconds since 1970; it may jump.
        ticks: A clock that never jumps, of this process; leases of others are watched by it.
    """

    def __init__(
        self,
        store: Store,
        *,
        clock: Callable[[], float] = time.time,
        ticks: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__(store, clock=clock)
        self._ticks = ticks
        # What each held job's lease was when this process first saw it so, and when that was.
        self._watched: dict[str, tuple[tuple[int, float], float]] = {}

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
        return Claim(
            id=first.id,
            fence=first.fence + 1,
            attempt=first.attempt + 1,
            backend=first.backend,
            spec=first.spec,
            traceparent=first.traceparent,
        )

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
