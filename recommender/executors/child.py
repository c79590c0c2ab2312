"""The probe process: reads one specification on standard input, and writes messages to a pipe.

    python -m recommender.executors.jail FOLDER JOURNAL MEMORY_MB recommender.executors.child PIPE

The jail is closed before anything else is imported. It imports Keras and then waits, so a process
that waits is a warm one. When its standard input ends, whoever started it is gone, and it ends
itself.
"""

from __future__ import annotations

import errno
import json
import math
import os
import resource
import signal
import sys
import threading
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recommender.answer import Plain
from recommender.errors import RequestError
from recommender.executors.messages import POINTS
from recommender.executors.seconds import Seconds
from recommender.progress import Progress
from recommender.settings import Setting

LONGEST_TEXT = 1000
NO_SPACE = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
FULL = "The disk is full where probes keep what they measure. Free some, and ask again."
# Errors of the request by whose fault they are.
MODEL_CODES = frozenset(
    {
        "unsupported_model",
        "no_trainable_weights",
        "unknown_loss",
        "outputs_mismatch",
        "loss_failed",
    }
)
DATA_CODES = frozenset(
    {"shape_mismatch", "not_numeric", "not_finite", "label_range", "bad_summary", "file_unreadable"}
)


class Pipe:
    """Writes messages, one JSON line each."""

    def __init__(self, descriptor: int) -> None:
        self._file = os.fdopen(descriptor, "w", encoding="utf-8", buffering=1)

    def send(self, kind: str, **fields: Any) -> None:
        """Write one message."""
        self._file.write(json.dumps({"kind": kind, **fields}, allow_nan=False) + "\n")


class Told(Progress):
    """Turns what happens into messages.

    Args:
        pipe: Where they go.
        enough: Is set once the probe is to end with what it knows.
    """

    def __init__(self, pipe: Pipe, enough: threading.Event) -> None:
        self._pipe = pipe
        self._enough = enough
        self._trials: dict[Setting, int] = {}
        self._seconds = Seconds()

    def enough(self) -> bool:
        """Whether the starter has said so."""
        return self._enough.is_set()

    def working(self, setting: Setting) -> None:
        """Send it on, with the key under which a journal keeps that the setting fails."""
        from recommender.population import failure_key

        key = failure_key(setting, os.environ["KERAS_BACKEND"])
        trial = self._trials.get(setting)
        self._pipe.send("working", trial=trial, label=setting.label, key=key)
        self._seconds.begin(trial)

    def said(self, text: str) -> None:
        """Send it on."""
        self._seconds.end()
        self._pipe.send("said", text=shortened(text))

    def planned(self, settings: Sequence[Setting]) -> None:
        """Send it on."""
        self._trials = {setting: number for number, setting in enumerate(settings)}
        trials = [
            {
                "label": s.label,
                "method": s.method,
                "learning_rate": s.learning_rate,
                "config": dict(s.config),
            }
            for s in settings
        ]
        self._pipe.send("planned", trials=trials)

    def trained(
        self, setting: Setting, first: int, losses: NDArray[np.float32], rate: float
    ) -> None:
        """Send it on, thinned out, for planned probes only."""
        if setting not in self._trials or not len(losses):
            return
        self._tell_seconds(setting)
        # Means of equal pieces: a curve thins out, it does not lose its noise to chance.
        pieces = np.array_split(losses.astype(np.float64), min(len(losses), POINTS))
        ends = np.cumsum([len(piece) for piece in pieces]) + first
        points = [[int(end), _plain(piece.mean())] for end, piece in zip(ends, pieces, strict=True)]
        self._pipe.send("trained", trial=self._trials[setting], points=points, rate=rate)

    def judged(self, setting: Setting, step: int, loss: float) -> None:
        """Send it on."""
        self._tell_seconds(setting)
        self._pipe.send("judged", trial=self._trials[setting], step=step, loss=_plain(loss))

    def stopped(self, setting: Setting, reason: str) -> None:
        """Send it on."""
        self._tell_seconds(setting)
        self._pipe.send("stopped", trial=self._trials[setting], reason=shortened(reason))

    def spent(self, fraction: float) -> None:
        """Send it on."""
        self._seconds.end()
        self._pipe.send("spent", fraction=round(min(1.0, fraction), 4))

    def _tell_seconds(self, setting: Setting) -> None:
        trial = self._trials[setting]
        if seconds := round(self._seconds.take(trial), 4):
            self._pipe.send("worked", trial=trial, seconds=seconds)


def _plain(loss: float) -> float | None:
    return float(f"{loss:.6g}") if math.isfinite(loss) else None


def end_with_starter() -> threading.Event:
    """End this process when its standard input does: its starter has been killed.

    Returns:
        Is set when anything comes on it: the starter wants an end with what is known.
    """
    enough = threading.Event()

    def watch() -> None:
        # Not through sys.stdin: a thread that holds its lock makes Python abort at its end.
        while os.read(0, 4096):
            enough.set()
        os.kill(os.getpid(), signal.SIGKILL)

    threading.Thread(target=watch, daemon=True).start()
    return enough


def materials(spec: Plain) -> Plain:
    """Model, data, loss and validation data of a specification, as `recommend` takes them.

    Raises:
        RequestError: A file cannot be read, or a name is unknown.
    """
    from recommender import demo_tasks
    from recommender.executors import tables

    model, data, loss = spec["model"], spec["data"], spec["loss"]
    found: Plain = {"y": None, "validation_data": None, "loss": None}
    if model["kind"] == "sample":
        task = demo_tasks.find(model["name"])
        found["model"], found["loss"] = task.model(spec["seed"]), task.loss()
    elif model["kind"] == "config":
        found["model"] = model["config"]
    else:
        found["model"] = {key: value for key, value in model.items() if key != "kind"}
    if data["kind"] == "sample":
        x, y, x_val, y_val = demo_tasks.find(data["name"]).load()
        found |= {"x": x, "y": y, "validation_data": (x_val, y_val)}
    elif data["kind"] in ("npz", "parquet"):
        found |= tables.read(data)
    else:
        found["x"] = {key: value for key, value in data.items() if key != "kind"}
    if loss is not None:
        found["loss"] = _loss(loss["name"], from_logits=loss["from_logits"])
    return found


def _loss(name: str, *, from_logits: bool) -> Any:
    """A loss by name; only cross-entropies may be told that they get logits."""
    if not from_logits:
        return name
    import keras

    class_name = "".join(part.capitalize() for part in name.split("_"))
    return getattr(keras.losses, class_name)(from_logits=True)


def probe(asked: Plain, pipe: Pipe, enough: threading.Event) -> None:
    """Ask for advice, and send the result or the reason why there is none.

    Args:
        asked: The specification as `spec`, and perhaps the `journal` and what `failed` before.
        pipe: Where messages go.
        enough: Is set once the probe is to end with what it knows.
    """
    from recommender.advise import recommend
    from recommender.journal import add

    spec, journal = asked["spec"], asked["journal"]
    try:
        if journal is not None and asked["failed"]:
            add(Path(journal), asked["failed"])
        advice = recommend(
            **materials(spec),
            epochs=spec["epochs"],
            batch_size=spec["batch_size"],
            tier=spec["tier"],
            max_seconds=spec["max_seconds"],
            objective=spec["objective"],
            include=spec["include"],
            seed=spec["seed"],
            backend=os.environ["KERAS_BACKEND"],  # a jailed process starts no other
            progress=Told(pipe, enough),
            journal=journal,
        )
    except (RequestError, OSError) as error:
        if full(error):
            _fail(pipe, "storage_full", FULL)
        elif isinstance(error, RequestError):
            _fail(pipe, rejected(error.code), str(error))
        else:
            traceback.print_exc()
            _fail(pipe, "internal", f"The probe failed with {type(error).__name__}.")
    except MemoryError:
        _fail(pipe, "out_of_memory", "The probe ran out of memory. Take a smaller model or batch.")
    except Exception as error:  # noqa: BLE001 - a framework may fail in any way; the asker gets a reason
        traceback.print_exc()
        if "RESOURCE_EXHAUSTED" in str(error) or "out of memory" in str(error).lower():
            _fail(pipe, "out_of_memory", "The framework ran out of memory. Take a smaller batch.")
        else:
            _fail(pipe, "internal", f"The probe failed with {type(error).__name__}.")
    else:
        pipe.send("result", result=advice.to_dict(), usage=usage())


def rejected(code: str) -> str:
    """Whose fault an error of the request is."""
    if code in MODEL_CODES:
        return "model_rejected"
    return "data_rejected" if code in DATA_CODES else "request_rejected"


def full(error: BaseException) -> bool:
    """Whether a disk had no room for what was measured."""
    found = error.__cause__ if isinstance(error, RequestError) else error
    return isinstance(found, OSError) and found.errno in NO_SPACE


def usage() -> Plain:
    """What this process has used so far."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    unit = 1 if sys.platform == "darwin" else 1024
    return {
        "cpu_seconds": round(used.ru_utime + used.ru_stime, 2),
        "peak_memory_bytes": used.ru_maxrss * unit,
    }


def shortened(text: str) -> str:
    """A text as long as messages may be: a framework's own may hold a whole model."""
    return text if len(text) <= LONGEST_TEXT else text[: LONGEST_TEXT - 1] + "…"


def _fail(pipe: Pipe, code: str, detail: str) -> None:
    pipe.send("failed", code=code, detail=shortened(detail), usage=usage())


def main() -> None:
    """Import, wait for a specification, probe."""
    pipe = Pipe(int(sys.argv[1]))
    missing = None
    try:
        import recommender.advise  # noqa: F401 - a process that waits has imported everything
    except ModuleNotFoundError as error:
        missing = error.name
    pipe.send("ready")
    line = sys.stdin.readline()
    if not line:
        return
    if missing is not None:
        backend = os.environ["KERAS_BACKEND"]
        detail = f"The backend {backend} is not installed where probes run: {missing} is missing."
        _fail(pipe, "backend_unavailable", f"{detail} Name another one, or install it.")
        return
    probe(json.loads(line), pipe, end_with_starter())
