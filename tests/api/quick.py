"""A worker whose probes take milliseconds: `python -m tests.api.quick`, with the usual settings.

What a probe tells follows from its seed alone, so whoever goes on with it tells the same again.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from api.__main__ import end_with_supervisor
from api.examples import answers
from api.settings import Settings
from api.worker import Worker
from recommender.executors import Outcome, ProbeSpec

Plain = dict[str, Any]
TRIALS = 3
ADVICE = answers()["give_advice"]
SPEC = {
    "model": {"kind": "sample", "name": "digits"},
    "data": {"kind": "sample", "name": "digits"},
    "loss": None,
    "epochs": 1,
    "batch_size": 32,
    "tier": "quick",
    "max_seconds": 60.0,
    "objective": "val_loss",
    "include": [],
    "seed": 0,
}


class Quick:
    """An executor that trains nothing.

    Args:
        backend: Of which it makes no use.
        pause: Seconds between two messages.
        pieces: Messages with losses, for each trial.
    """

    pid = 0
    alive = True

    def __init__(self, backend: str, pause: float = 0.001, pieces: int = 4) -> None:
        self.backend = backend
        self._pause = pause
        self._pieces = pieces

    def run(
        self,
        spec: ProbeSpec,
        hears: Callable[[Plain], None],
        cancelled: Callable[[], bool],
        journal: Path | None = None,
        failed: Mapping[str, str] | None = None,
    ) -> Outcome:
        """Tell what a probe tells."""
        assert journal is not None
        (journal / "pieces.log").write_bytes(b"x" * 100)
        for number, message in enumerate(said(spec.seed, self._pieces)):
            time.sleep(self._pause)
            if cancelled():
                return Outcome("cancelled", answer(known=number), "cancelled", "On request.", {})
            hears(message)
        return Outcome("succeeded", answer(seed=spec.seed), None, None, {"cpu_seconds": 0.0})

    def close(self) -> None:
        """Nothing to let go of."""


def answer(**found: int) -> Plain:
    """A result as callers are given it, for they may ask as soon as it is there."""
    return {**ADVICE, **found}


def said(seed: int, pieces: int) -> Iterator[Plain]:
    """What the probe of a seed tells."""
    yield {"kind": "said", "text": f"seed {seed}"}
    asked = [
        {"label": f"trial {n}", "method": "adam", "learning_rate": 0.1**n, "config": {}}
        for n in range(TRIALS)
    ]
    yield {"kind": "planned", "trials": asked}
    for piece in range(pieces):
        for trial in range(TRIALS):
            yield {"kind": "working", "trial": trial, "label": f"trial {trial}", "key": f"k{trial}"}
            points = [[piece * 10 + i, 1.0 / (1 + seed + piece)] for i in range(1, 11, 3)]
            yield {"kind": "trained", "trial": trial, "points": points, "rate": 0.1}
            yield {"kind": "spent", "fraction": (piece + 1) / pieces}
    for trial in range(TRIALS):
        yield {"kind": "judged", "trial": trial, "step": pieces * 10, "loss": 1.0 + trial}
        yield {"kind": "stopped", "trial": trial, "reason": f"place {trial + 1} of {TRIALS}"}


def main() -> None:
    """Work until SIGTERM."""
    pause = float(os.environ.get("QUICK_PAUSE", "0.001"))
    pieces = int(os.environ.get("QUICK_PIECES", "4"))
    end_with_supervisor()
    worker = Worker(Settings(), lambda backend: Quick(backend, pause, pieces))
    signal.signal(signal.SIGTERM, lambda *_: worker.stop())
    worker.run()


if __name__ == "__main__":
    main()
