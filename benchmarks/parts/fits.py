"""Fits: whole short trainings in turn, one optimizer each."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras

from benchmarks.parts import measure
from benchmarks.parts.cells import rounded
from benchmarks.parts.methods import METHODS
from benchmarks.parts.models import TRAININGS
from benchmarks.parts.results import PLAIN
from benchmarks.parts.sets import size
from benchmarks.parts.sides import Side

BATCH_SIZE = 32
RULES = ("adam", "adabelief", "lion")


def measured(
    name: str, *, rounds: int, tell: Callable[[str], Any] = lambda _: None
) -> dict[str, Any]:
    """The figures of one model, ready for JSON.

    Args:
        name: A key of `TRAININGS`.
        rounds: Fits of each side.
        tell: Is told what goes on.
    """
    training = TRAININGS[name]
    x, y = training.data(BATCH_SIZE)
    first = training.build()

    def side(optimizer: keras.optimizers.Optimizer) -> Side:
        model = training.build()
        model.set_weights(first.get_weights())
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile(optimizer, loss)

        def fit() -> None:
            model.fit(x, y, batch_size=BATCH_SIZE, shuffle=False, verbose=0)

        return Side(lambda: fit, step=fit)

    sides = {name: side(optimizer) for name, optimizer in optimizers().items()}
    tell("first fits")
    seconds = measure.rounds(sides, rounds, 1, tell)
    return {
        "model": name,
        "title": training.title,
        "tensors": len(first.trainable_variables),
        "parameters": size([tuple(v.shape) for v in first.trainable_variables]),
        "steps": training.steps,
        "seconds": {name: rounded(values) for name, values in seconds.items()},
    }


def optimizers() -> dict[str, keras.optimizers.Optimizer]:
    """What trains, by the name of the side."""
    found = {PLAIN: keras.optimizers.SGD(), "Adam, keras": keras.optimizers.Adam()}
    for method in (METHODS[rule] for rule in RULES):
        found[f"{method.title}, ours"] = method.make_ours()
        found[f"{method.title}, ordinary"] = method.make_ordinary()
    return found
