"""Jobs in every state, written into the ledger as a worker writes them, without a probe."""

from __future__ import annotations

import copy
from typing import Any

import httpx

from api.leases import Claim, Leases, Notes
from tests.api.server import DIGITS

Plain = dict[str, Any]
# Of the trials: candidate, method, arguments, learning rate, state, steps, seconds, training loss,
# validation loss.
TRIALS = (
    ("Adam 0.001", "adam", {}, 0.001, "stopped_early", 92, 2.5, 1.25, 1.07),
    (
        "AdamW 0.003 weight_decay=0.1", "adamw", {"weight_decay": 0.1}, 0.003, "completed", 92,
        1.75, 0.52, 0.36,
    ),
    ("SGD 30", "sgd", {}, 30.0, "diverged", 12, 0.5, None, None),
    ("=Newton 1", "newton", {}, 1.0, "infeasible", 0, 0.0, None, None),
)  # fmt: skip
STATES = ("queued", "running", "succeeded", "failed", "cancelled")


def staged(http: httpx.Client, jobs: Leases, state: str, **asked: Any) -> str:
    """A job that has got as far as `state`; returns its id."""
    job: str = http.post("/v1/recommendations", json={**DIGITS, **asked}).json()["id"]
    if state == "queued":
        return job
    claim = taken(jobs, job)
    trials = {position: _trial(job, position) for position in range(len(TRIALS))}
    progress = {
        "trials_total": 4, "trials_done": 3, "trials_failed": 2, "fraction": 0.6,
        "eta_seconds": 4.0,
        "best_so_far": {
            "trial": trials[1]["id"], "label": TRIALS[1][0], "val_loss": 0.36, "step": 123,
        },
    }  # fmt: skip
    jobs.note(claim, Notes(_events(trials), trials, progress))
    if state == "succeeded":
        jobs.finish(claim, state, result=measured(jobs, job))
    elif state == "failed":
        jobs.finish(claim, state, reason=("data_rejected", "Column 'y' has 3 text values."))
    elif state == "cancelled":
        jobs.cancel(job)
        jobs.finish(claim, state, result=measured(jobs, job))
    return job


def taken(jobs: Leases, job: str) -> Claim:
    """The job as a worker holds it; what waits before it is held as well."""
    while (claim := jobs.claim("someone")) is not None:
        if claim.id == job:
            return claim
    raise AssertionError(f"{job} does not wait")


def measured(jobs: Leases, job: str) -> Plain:
    """An answer as a race gives it, from the instant one."""
    row = jobs.get(job)
    assert row is not None
    advice = copy.deepcopy(row.advice_before)
    led = "It led the race: validation loss 0.36 after 123 steps and a cooldown."
    reasons = [led, *advice["decision"]["reasons"]]
    advice["decision"] = {"basis": "probe", "code": "noise_exceeds_gap", "reasons": reasons}
    advice["evidence"]["kind"] = "measured"
    found: Plain = advice
    return found


def _trial(job: str, position: int) -> Plain:
    label, method, config, rate, status, steps, seconds, train, val = TRIALS[position]
    curve: list[Any] = [[step, 2.3 - 0.01 * step] for step in range(0, steps, 4)]
    return {
        "id": f"trl_{job.removeprefix('rec_')}_{position}",
        "index": position,
        "label": label,
        "optimizer": {"method": method, "learning_rate": rate, "config": config},
        "status": status,
        "attempts": 1,
        "steps": steps,
        "seconds": seconds,
        "final_loss": train,
        "val_metric": val,
        "stopped": None,
        "loss_curve": [*curve, [steps, train]] if steps else [],
        "val_curve": [[123, val]] if val is not None else [],
    }


def _events(trials: dict[int, Plain]) -> list[tuple[str, Plain]]:
    found: list[tuple[str, Plain]] = [("log", {"text": "reading model and data"})]
    for position, trial in trials.items():
        place = {"trial": trial["id"], "index": position}
        if not trial["loss_curve"]:
            continue
        found.append(("trial.started", {**place, "label": trial["label"]}))
        step, loss = trial["loss_curve"][-1]
        points = trial["loss_curve"]
        metric = {**place, "step": step, "loss": loss, "t": 1.0, "points": points}
        metric["lr"] = trial["optimizer"]["learning_rate"]
        found.append(("trial.metric", metric))
        for at, val in trial["val_curve"]:
            rung = {"step": at, "val_loss": val, "cooled_from": trial["steps"]}
            found.append(("trial.judged", {**place, **rung}))
    return found
