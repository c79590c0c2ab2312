"""The table of a job's short trainings: in an order for the page, and as CSV."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from recommender.knowledge import state_multiple

Plain = dict[str, Any]
BYTES_PER_NUMBER = 4
# Spreadsheets take text that begins so for a formula.
FORMULA = ("=", "+", "-", "@", "\t", "\r")


class Column(NamedTuple):
    """One column that the table can be sorted by.

    Attributes:
        title: Its heading.
        numeric: Whether it holds numbers.
        key: What to sort a trial by; None comes last, whichever way the table is sorted.
    """

    title: str
    numeric: bool
    key: Callable[[Plain], Any]


def _state(trial: Plain) -> float | None:
    return state_multiple(trial["optimizer"]["method"], trial["optimizer"]["config"])


COLUMNS: Mapping[str, Column] = {
    "candidate": Column("Candidate", False, lambda trial: trial["label"].lower()),
    "val_loss": Column("Validation loss", True, lambda trial: trial["val_metric"]),
    "train_loss": Column("Training loss", True, lambda trial: trial["final_loss"]),
    "steps": Column("Steps", True, lambda trial: trial["steps"]),
    "seconds": Column("Time", True, lambda trial: trial.get("seconds")),
    "state": Column("Optimizer state", True, _state),
    "status": Column("How it went", False, lambda trial: trial["status"]),
}

# What the CSV holds of a trial, by column.
CELLS: Mapping[str, Callable[[Plain], Any]] = {
    "trial": lambda trial: trial["id"],
    "index": lambda trial: trial["index"],
    "candidate": lambda trial: trial["label"],
    "optimizer": lambda trial: trial["optimizer"]["method"],
    "learning_rate": lambda trial: trial["optimizer"]["learning_rate"],
    "arguments": lambda trial: json.dumps(trial["optimizer"]["config"]),
    "status": lambda trial: trial["status"],
    "stopped": lambda trial: trial["stopped"],
    "steps": lambda trial: trial["steps"],
    "seconds": lambda trial: trial.get("seconds"),
    "training_loss": lambda trial: trial["final_loss"],
    "validation_loss": lambda trial: trial["val_metric"],
    "validation_step": lambda trial: trial["val_curve"][-1][0] if trial["val_curve"] else None,
}


def ordered(trials: Sequence[Plain], sort: str, best: str | None) -> list[Plain]:
    """Trials in the order that is asked for, the best one first.

    Args:
        trials: In any order.
        sort: A column's name, with a hyphen before it for the largest first; whatever else is the
            order of the race: who got further, then the lower validation loss.
        best: The id of the trial that stays first; None pins none.
    """
    column = COLUMNS.get(sort.removeprefix("-"))
    if column is None:
        found = sorted(trials, key=_place)
    else:
        known = [trial for trial in trials if column.key(trial) is not None]
        known.sort(key=column.key, reverse=sort.startswith("-"))
        found = known + [trial for trial in trials if column.key(trial) is None]
    return sorted(found, key=lambda trial: trial["id"] != best)


def headings(sort: str) -> list[Plain]:
    """What the table's head shows: name, title, direction, and the order that a press asks for."""
    found = []
    for name, column in COLUMNS.items():
        way = {name: "ascending", f"-{name}": "descending"}.get(sort)
        found.append(
            {
                "title": column.title,
                "numeric": column.numeric,
                "way": way,
                "next": f"-{name}" if way == "ascending" else name,
            }
        )
    return found


def state_bytes(trial: Plain, parameters: int | None) -> int | None:
    """What the optimizer's state takes in float32; None where it or the model is not known."""
    multiple = _state(trial)
    if multiple is None or parameters is None:
        return None
    return round(multiple * parameters * BYTES_PER_NUMBER)


def memory(trial: Plain, parameters: int | None) -> str:
    """The same in words."""
    multiple, size = _state(trial), state_bytes(trial, parameters)
    if multiple is None:
        return "not known"
    return f"{multiple:g} times the weights" if size is None else _binary(size)


def duration(trial: Plain) -> str:
    """How long was spent on a trial, in words."""
    seconds = trial.get("seconds")
    if seconds is None:
        return "not known"
    return f"{seconds:.2g} s" if seconds < 10 else f"{seconds:,.0f} s"


def _binary(size: float) -> str:
    for unit in ("bytes", "KiB", "MiB"):
        if size < 1000:  # three digits at most
            return f"{size:.3g} {unit}"
        size /= 1024
    return f"{size:.3g} GiB"


def as_csv(trials: Sequence[Plain], parameters: int | None) -> str:
    """The trials as CSV, in order of prior; no cell can be taken for a formula.

    Args:
        trials: In order of prior.
        parameters: Weights of the model, where known.
    """
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow([*CELLS, "optimizer_state_bytes"])
    for trial in trials:
        cells = [*(take(trial) for take in CELLS.values()), state_bytes(trial, parameters)]
        writer.writerow([safe(cell) for cell in cells])
    return text.getvalue()


def safe(cell: Any) -> Any:
    """A cell that no spreadsheet runs: text that would begin a formula gets an apostrophe."""
    return f"'{cell}" if isinstance(cell, str) and cell.startswith(FORMULA) else cell


def _place(trial: Plain) -> tuple[int, float, int]:
    step, loss = trial["val_curve"][-1] if trial["val_curve"] else (0, None)
    return -step, math.inf if loss is None else loss, trial["index"]
