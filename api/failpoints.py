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
    "add_model",
    "add_dataset",
)
POINTS = (
    *(f"{step}.{moment}" for step in STEPS for moment in ("before_commit", "after_commit")),
    "keep.before_replace",
    "keep.after_replace",
    "scratch.before_forget",
)

_named, _, _times = os.environ.get(VARIABLE, "").partition(":")
_left = int(_times or 1)


def reach(point: str) -> None:
    """Die here if `KGO_FAILPOINT` names this point; `note.before_commit:3` means the third time."""
    global _left  # noqa: PLW0603 - counted for the whole process
    if point == _named:
        _left -= 1
        if _left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
