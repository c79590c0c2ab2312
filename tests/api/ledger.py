"""What must hold of every job in the ledger, whatever was killed."""

from __future__ import annotations

import itertools
from typing import Any

from api.jobs import Jobs
from api.transitions import ENDED, HELD

# Which states may follow which.
FOLLOWS = {
    None: {"queued"},
    "queued": {"running", "cancelled"},
    "running": {"queued", "cancelling", "succeeded", "failed", "timed_out"},
    "cancelling": {"cancelled"},
}


def assert_sound(jobs: Jobs, job: str, attempts: int = 10**6) -> str:
    """Check one job.

    Args:
        jobs: The ledger.
        job: Which one.
        attempts: How often it may be begun.

    Returns:
        Its state.
    """
    # An event may be added between two looks: the row is looked at first.
    row = jobs.get(job)
    assert row is not None, f"{job} is lost"
    events = [e for e in jobs.events(job, 0, 10**6) if e.seq <= row.last_seq]
    assert [e.seq for e in events] == list(range(1, row.last_seq + 1)), "numbers are dense"
    moves = [e for e in events if e.type == "status"]
    states = [e.data["status"] for e in moves]
    for before, after in itertools.pairwise([None, *states]):
        assert after in FOLLOWS[before], states
    assert states[-1] == row.status
    ended = row.status in ENDED
    assert [e.type for e in events].count("done") == ended
    _assert_attempts(row, moves, attempts)
    assert row.created_at == moves[0].at
    assert row.reason_code == moves[-1].data.get("code")
    if ended:
        assert events[-1].type == "done"
        assert events[-1].data["result"] == row.result
    assert row.finished_at == (events[-1].at if ended else None)
    if row.status == "succeeded":
        assert row.progress["fraction"] == 1.0
    assert (row.result is not None) == (row.status == "succeeded" or row.partial)
    for of_its_worker in (row.worker, row.lease_until):
        assert (of_its_worker is not None) == (row.status in HELD)
    _assert_trials(jobs.trials(job), events, ended=ended)
    return str(row.status)


def _assert_attempts(row: Any, moves: list[Any], attempts: int) -> None:
    """Every start is counted, except where its worker stopped in order."""
    starts = [e for e in moves if e.data["status"] == "running"]
    back = [e.data["reason"] for e in moves[1:] if e.data["status"] == "queued"]
    assert set(back) <= {"worker_lost", "worker_stopped"}
    assert row.attempt == len(starts) - back.count("worker_stopped")
    assert row.attempt <= attempts
    assert row.started_at == (starts[0].at if starts else None)


def _assert_trials(trials: list[Any], events: list[Any], *, ended: bool) -> None:
    for trial in trials:
        own = [e for e in events if e.data.get("trial") == trial["id"]]
        kinds = [e.type for e in own]
        assert kinds.count("trial.started") <= 1, "begun again is not begun twice"
        assert kinds.count("trial.finished") <= 1
        told = [p for e in own if e.type == "trial.metric" for p in e.data["points"]]
        steps = [step for step, _ in told]
        assert steps == sorted(set(steps)), "no point is told twice"
        if len(told) <= 512:
            assert trial["loss_curve"] == told, "the curve is what was told"
        judged = [[e.data["step"], e.data["val_loss"]] for e in own if e.type == "trial.judged"]
        assert trial["val_curve"] == judged
        if ended:
            assert trial["status"] not in ("waiting", "running")
