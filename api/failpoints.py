"""Named points at which a test may have this process killed, as by `kill -9`."""

from __future__ import annotations

import os
import signal

VARIABLE = "KGO_FAILPOINT"
# Each step that writes dies before its commit or after it.
STEPS = (
    "create",
    "cancel",
    "claim",
    "beat",
    "note",
    "finish",
    "give_back",
    "reap",
    "add_models",
    "add_datasets",
)
POINTS = (
    *(f"{step}.{moment}" for step in STEPS for moment in ("before_commit", "after_commit")),
    "keep.before_replace",
    "keep.after_replace",
    "scratch.before_forget",
)


class _Armed:
    """The point at which this process dies, and how often it is passed before."""

    def __init__(self, named: str) -> None:
        self.point, _, times = named.partition(":")
        self.left = int(times or 1)


_armed = _Armed(os.environ.get(VARIABLE, ""))


def arm(named: str) -> None:
    """Die at this point; `note.before_commit:3` means the third time that it is reached."""
    global _armed  # noqa: PLW0603 - the whole process dies
    _armed = _Armed(named)


def reach(point: str) -> None:
    """Die here, as by `kill -9`, if this is the point that `KGO_FAILPOINT` names."""
    if point != _armed.point:
        return
    _armed.left -= 1
    if _armed.left == 0:
        os.kill(os.getpid(), signal.SIGKILL)
