"""Single steps of a job's life within a transaction: a guarded change of state, and its events."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import sqlalchemy as sa
from sqlalchemy import Connection, Row

from api.store import events, jobs, trials

Plain = dict[str, Any]
Status = Literal["queued", "running", "cancelling", "succeeded", "failed", "timed_out", "cancelled"]
HELD = ("running", "cancelling")
LIVE = ("queued", *HELD)
ENDED = ("succeeded", "failed", "timed_out", "cancelled")
CANCELLED = ("cancelled", "Cancelled on request.")
# Version of the events' data.
EVENT_VERSION = 1


class Step:
    """What one transaction does to jobs.

    Args:
        connection: Of the transaction.
        now: The time that it is written under.
    """

    def __init__(self, connection: Connection, now: float) -> None:
        self._connection = connection
        self._now = now

    def move(
        self,
        job: str,
        from_: Sequence[str],
        *,
        status: str,
        reason: tuple[str, str] | None = None,
        why: str | None = None,
        **values: Any,
    ) -> bool:
        """One transition, with its event.

        Args:
            job: Whose.
            from_: States in which it is made.
            status: The state that it leads to.
            reason: Code and detail of the job's end.
            why: Code of why it is queued again.
            values: Columns that change with it.

        Returns:
            False where the job was in none of the states `from_`.
        """
        ends = status in ENDED
        if ends:
            values |= {"finished_at": self._now, "worker": None, "lease_until": None}
        changed = self._connection.execute(
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
            self._end_trials(job, status)
        self.tell(job, told)
        return True

    def requeue(self, row: Row[Any], attempt: int, why: str) -> None:
        """Back into the queue, or to its end where somebody has asked for that."""
        if row.status == "cancelling":
            self.move(row.id, ("cancelling",), status="cancelled", reason=CANCELLED)
            return
        self.move(
            row.id,
            ("running",),
            status="queued",
            attempt=attempt,
            # Whoever held it may wake up again: from now on its fence is not the job's.
            fence=row.fence + 1,
            worker=None,
            lease_until=None,
            why=why,
        )

    def tell(self, job: str, told: Sequence[tuple[str, Mapping[str, Any]]]) -> None:
        """Write events under the job's next numbers; the numbers are dense."""
        if not told:
            return
        last = self._connection.execute(
            jobs.update()
            .where(jobs.c.id == job)
            .values(last_seq=jobs.c.last_seq + len(told))
            .returning(jobs.c.last_seq)
        ).scalar_one()
        self._connection.execute(
            events.insert(),
            [
                {
                    "job_id": job,
                    "seq": last - len(told) + 1 + number,
                    "at": self._now,
                    "type": kind,
                    "data": {"v": EVENT_VERSION, **data},
                }
                for number, (kind, data) in enumerate(told)
            ],
        )

    def put_trial(self, job: str, position: int, trial: Plain) -> None:
        """Write a trial in place of what was known of it."""
        self._connection.execute(
            trials.delete().where(trials.c.job_id == job, trials.c.position == position)
        )
        self._connection.execute(trials.insert().values(job_id=job, position=position, trial=trial))

    def _end_trials(self, job: str, status: str) -> None:
        """Trials that nobody goes on with are closed with the job."""
        last = "cancelled" if status == "cancelled" else "failed"
        rows = self._connection.execute(sa.select(trials).where(trials.c.job_id == job)).all()
        for row in rows:
            if row.trial["status"] in ("waiting", "running"):
                self.put_trial(job, row.position, {**row.trial, "status": last})
