"""A request that ends itself with SIGKILL at a named place of its journal.

    python -m tests.recommender.killed FOLDER PLACE COUNT

Places: "before" and "after" the COUNT-th line that this process writes, "within" it, and "state":
while the COUNT-th state is being written.
"""

from __future__ import annotations

import os
import signal
import sys
from typing import Any

import keras
import numpy as np

from recommender import journal, recommend
from tests.recommender.problems import data, model

ARGUMENTS: dict[str, Any] = {
    "epochs": 400,
    "batch_size": 32,
    "loss": "mse",
    "progress": False,
}


def asked(folder: str | None) -> Any:
    """The request, on the running backend."""
    net = model(batch_norm=True, dropout=0.2)
    return recommend(net, *data(), **ARGUMENTS, backend=keras.config.backend(), journal=folder)


def end() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def arm(place: str, count: int) -> None:
    """Put the end where it was asked for."""
    left = [count]
    record, savez = journal.Journal.record, np.savez

    def recording(self: Any, key: str, value: Any) -> None:
        left[0] -= 1
        if left[0] == 0 and place == "before":
            end()
        if left[0] == 0 and place == "within":
            line = journal._line({"key": key, "value": value})
            self._file.write(line[: len(line) // 2])
            self._file.flush()
            end()
        record(self, key, value)
        if left[0] == 0 and place == "after":
            end()

    def saving(out: Any, **arrays: Any) -> None:
        left[0] -= 1
        if left[0] == 0:
            out.write(b"half of it")
            out.flush()
            end()
        savez(out, **arrays)

    if place == "state":
        journal.np.savez = saving
    else:
        journal.Journal.record = recording


if __name__ == "__main__":
    arm(sys.argv[2], int(sys.argv[3]))
    asked(sys.argv[1])
