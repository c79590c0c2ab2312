"""Turns the messages of probes into trials, progress and events of their job.

A probe that goes on where another was stopped tells everything again from the beginning; what the
job knows already is not written twice.
"""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass
from typing import Any

from sqlalchemy.exc import OperationalError

from api.leases import Claim, Leases, Notes
from api.transitions import Plain

logger = logging.getLogger(__name__)

# Losses and progress are gathered for so long, so a stream gets a few events a second.
GATHER_SECONDS = 0.25
# Points kept of a trial's curve; more are thinned to half.
MOST_POINTS = 512
# How the reasons begin for which a trial stops.
PLACED = "place"
LOST = "ended the process"
INFEASIBLE = (LOST, "failed with", "ran out of memory")
GONE_ON_WITHOUT = ("diverged", "infeasible")


@dataclass(frozen=True)
class Working:
    """What a probe is training.

    Attributes:
        key: Under which a journal keeps that it cannot be trained.
        label: What people call it.
    """

    key: str
    label: str


class Record:
    """What the probes of one job have said so far, those of earlier attempts included.

    Args:
        claim: The hold on the job.
        jobs: Where it is written.

    Attributes:
        working: What the probe was at when it spoke last, or None.
    """

    def __init__(self, claim: Claim, jobs: Leases) -> None:
        self._claim = claim
        self._jobs = jobs
        self._limit = float(claim.spec["max_seconds"])
        row = jobs.get(claim.id)
        assert row is not None  # it was claimed
        self._progress: Plain = dict(row.progress)
        self._trials = jobs.trials(claim.id)
        self._said_before = self._said_now = set(jobs.logged(claim.id))
        self._notes = Notes()
        # Points that no event has carried yet, by trial.
        self._fresh: dict[int, Plain] = {}
        self.begin()

    def begin(self) -> None:
        """A probe begins from the beginning."""
        self.working: Working | None = None
        self._said_before = self._said_now | self._said_before
        self._said_now = set()
        self._began = self._written = time.monotonic()

    def hear(self, message: Plain) -> None:
        """Take in one message; write when something ended, or enough has gathered."""
        kind = message["kind"]
        self.working = None
        getattr(self, f"_{kind}")(message)
        due = time.monotonic() - self._written > GATHER_SECONDS
        if due or kind in ("planned", "stopped"):
            self.write()

    def write(self) -> None:
        """Write what has gathered; what cannot be written now is kept for the next time."""
        self._written = time.monotonic()
        for position, point in self._fresh.items():
            self._notes.events.append(("trial.metric", point))
            self._notes.trials[position] = self._trials[position]
        self._fresh = {}
        if self._notes:
            try:
                self._jobs.note(self._claim, self._notes)
            except OperationalError as error:  # the disk is full, or the ledger locked
                logger.warning("job %s: %s", self._claim.id, error.orig)
                return
        self._notes = Notes()

    def lost(self, working: Working, how: str) -> None:
        """Say that a candidate ended its process again and is not tried any more."""
        self._event("log", text=f"{working.label} {how}; going on without it")
        self.write()

    def _said(self, message: Plain) -> None:
        text = message["text"]
        self._said_now.add(text)
        if text not in self._said_before:
            self._event("log", text=text)

    def _working(self, message: Plain) -> None:
        self.working = Working(message["key"], message["label"])

    def _planned(self, message: Plain) -> None:
        known, self._trials = self._trials, []
        for position, asked in enumerate(message["trials"]):
            before = known[position] if position < len(known) else None
            if before is not None and before["label"] == asked["label"]:
                if before["stopped"] is None:
                    before["attempts"] += 1
                self._trials.append(before)
                self._notes.trials[position] = before
                continue
            trial: Plain = {
                "id": f"trl_{self._claim.id.removeprefix('rec_')}_{position}",
                "index": position,
                "label": asked["label"],
                "optimizer": {key: asked[key] for key in ("method", "learning_rate", "config")},
                "status": "waiting",
                "attempts": 1,
                "steps": 0,
                "seconds": 0.0,
                "final_loss": None,
                "val_metric": None,
                "stopped": None,
                "loss_curve": [],
                "val_curve": [],
            }
            self._trials.append(trial)
            self._notes.trials[position] = trial
        self._move_on(trials_total=len(self._trials))

    def _worked(self, message: Plain) -> None:
        """Written with what was worked out."""
        trial = self._trials[message["trial"]]
        trial["seconds"] = round((trial.get("seconds") or 0.0) + message["seconds"], 4)

    def _trained(self, message: Plain) -> None:
        position = message["trial"]
        trial = self._trials[position]
        points = [point for point in message["points"] if point[0] > trial["steps"]]
        if not points:
            return
        if trial["status"] == "waiting":
            trial["status"] = "running"
            self._event("trial.started", trial=trial["id"], index=position, label=trial["label"])
        trial["steps"], trial["final_loss"] = points[-1]
        trial["loss_curve"] = thinned([*trial["loss_curve"], *points])
        if points[-1][1] is None:
            trial["status"] = "diverged"
        waiting = self._fresh.get(position, {"points": []})
        self._fresh[position] = {
            "trial": trial["id"],
            "index": position,
            "step": points[-1][0],
            "loss": points[-1][1],
            "lr": message["rate"],
            "t": round(time.monotonic() - self._began, 2),
            "points": [*waiting["points"], *points],
        }

    def _judged(self, message: Plain) -> None:
        position, step, loss = message["trial"], message["step"], message["loss"]
        trial = self._trials[position]
        if trial["val_curve"] and step <= trial["val_curve"][-1][0]:
            return
        trial["val_metric"] = loss
        trial["val_curve"] = [*trial["val_curve"], [step, loss]]
        self._notes.trials[position] = trial
        self._event(
            "trial.judged",
            trial=trial["id"],
            index=position,
            step=step,
            val_loss=loss,
            cooled_from=trial["steps"],
        )
        best = self._progress["best_so_far"]
        if loss is not None and (best is None or step > best["step"] or loss < best["val_loss"]):
            best = {
                "trial": trial["id"],
                "label": trial["label"],
                "val_loss": loss,
                "step": step,
            }
            self._event("best", **best)
            self._move_on(best_so_far=best)

    def _stopped(self, message: Plain) -> None:
        position = message["trial"]
        trial, reason = self._trials[position], message["reason"]
        if trial["stopped"] is not None:
            return
        trial["stopped"] = reason
        if reason.startswith(INFEASIBLE):
            trial["status"] = "infeasible"
        elif trial["status"] != "diverged":
            trial["status"] = "stopped_early" if reason.startswith(PLACED) else "completed"
        self._notes.trials[position] = trial
        self._event(
            "trial.finished",
            trial=trial["id"],
            index=position,
            status=trial["status"],
            reason=reason,
        )
        ended = [t["status"] for t in self._trials]
        self._move_on(
            trials_done=sum(s not in ("waiting", "running") for s in ended),
            trials_failed=sum(s in GONE_ON_WITHOUT for s in ended),
        )

    def _spent(self, message: Plain) -> None:
        """The larger of the shares of gradients and of seconds: whichever ends first."""
        seconds = time.monotonic() - self._began
        fraction = max(message["fraction"], min(1.0, seconds / self._limit))
        eta = seconds / fraction - seconds if fraction > 0 else None
        # A probe that goes on where another was stopped is not behind it.
        fraction = max(fraction, self._progress["fraction"])
        self._move_on(
            fraction=round(fraction, 4), eta_seconds=None if eta is None else round(eta, 1)
        )

    def _move_on(self, **changes: Any) -> None:
        """Progress goes out once per writing, as it then stands."""
        self._progress |= changes
        self._notes.progress = dict(self._progress)
        others = [event for event in self._notes.events if event[0] != "progress"]
        self._notes.events = [*others, ("progress", self._notes.progress)]

    def _event(self, kind: str, **data: Any) -> None:
        self._notes.events.append((kind, data))


def thinned(points: list[Any], most: int = MOST_POINTS) -> list[Any]:
    """A curve of at most `most` points: every other one goes, the last one stays."""
    while len(points) > most:
        points = points[len(points) % 2 == 0 :: 2]
    return points
