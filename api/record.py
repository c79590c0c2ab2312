"""Turns the messages of a probe into trials, progress and events of its job."""

from __future__ import annotations

import time
from typing import Any

from api.jobs import NO_PROGRESS, Claim, Jobs, Notes, Plain

# Losses and progress are gathered for so long, so a stream gets a few events a second.
GATHER_SECONDS = 0.25
# Points kept of a trial's curve; more are thinned to half.
MOST_POINTS = 512


class Record:
    """What one job's probe has said so far.

    Args:
        claim: The hold on the job.
        jobs: Where it is written.
    """

    def __init__(self, claim: Claim, jobs: Jobs) -> None:
        self._claim = claim
        self._jobs = jobs
        self._began = self._written = time.monotonic()
        self._limit = float(claim.spec["max_seconds"])
        self._trials: list[Plain] = []
        self._progress: Plain = dict(NO_PROGRESS)
        self._notes = Notes()
        # Points that no event has carried yet, by trial.
        self._fresh: dict[int, Plain] = {}

    def hear(self, message: Plain) -> None:
        """Take in one message; write when something ended, or enough has gathered."""
        kind = message["kind"]
        getattr(self, f"_{kind}")(message)
        due = time.monotonic() - self._written > GATHER_SECONDS
        if due or kind in ("planned", "stopped"):
            self.write()

    def write(self) -> None:
        """Write what has gathered."""
        for position, point in self._fresh.items():
            self._notes.events.append(("trial.metric", point))
            self._notes.trials[position] = self._trials[position]
        self._fresh = {}
        if self._notes:
            self._jobs.note(self._claim, self._notes)
        self._notes = Notes()
        self._written = time.monotonic()

    def _said(self, message: Plain) -> None:
        self._event("log", text=message["text"])

    def _planned(self, message: Plain) -> None:
        for position, asked in enumerate(message["trials"]):
            trial: Plain = {
                "id": f"trl_{self._claim.id.removeprefix('rec_')}_{position}",
                "index": position,
                "label": asked["label"],
                "optimizer": {key: asked[key] for key in ("method", "learning_rate", "config")},
                "status": "waiting",
                "attempts": self._claim.attempt,
                "steps": 0,
                "final_loss": None,
                "val_metric": None,
                "stopped": None,
                "loss_curve": [],
                "val_curve": [],
            }
            self._trials.append(trial)
            self._notes.trials[position] = trial
        self._move_on(trials_total=len(self._trials))

    def _trained(self, message: Plain) -> None:
        position = message["trial"]
        trial = self._trials[position]
        if trial["status"] == "waiting":
            trial["status"] = "running"
            self._event("trial.started", trial=trial["id"], index=position, label=trial["label"])
        points = message["points"]
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
        trial["val_metric"] = loss
        trial["val_curve"] = [*trial["val_curve"], [step, loss]]
        self._notes.trials[position] = trial
        self._event("trial.judged", trial=trial["id"], index=position, step=step, val_loss=loss)
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
        trial = self._trials[position]
        trial["stopped"] = message["reason"]
        if trial["status"] != "diverged":
            placed = message["reason"].startswith("place")
            trial["status"] = "stopped_early" if placed else "completed"
        self._notes.trials[position] = trial
        self._event(
            "trial.finished",
            trial=trial["id"],
            index=position,
            status=trial["status"],
            reason=message["reason"],
        )
        ended = [t["status"] for t in self._trials]
        self._move_on(
            trials_done=sum(s not in ("waiting", "running") for s in ended),
            trials_failed=sum(s == "diverged" for s in ended),
        )

    def _spent(self, message: Plain) -> None:
        """The larger of the shares of gradients and of seconds: whichever ends first."""
        seconds = time.monotonic() - self._began
        fraction = max(message["fraction"], min(1.0, seconds / self._limit))
        eta = seconds / fraction - seconds if fraction > 0 else None
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
