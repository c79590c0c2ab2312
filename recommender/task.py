"""Task: a training that anybody can repeat, from installed data to a model and its length."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import keras
from numpy.typing import NDArray

from recommender.request import Request

Data = tuple[NDArray[Any], NDArray[Any], NDArray[Any], NDArray[Any]]


@dataclass(frozen=True)
class Task:
    """One training task.

    Attributes:
        name: What commands call it.
        summary: Data, model and what is learnt, in one line.
        load: Gives `(x, y, x_val, y_val)`.
        build: Gives a fresh model; fresh weights come from Python's generator.
        loss: Gives the loss as `model.compile` takes it.
        batch_size, epochs: Of one full training.
    """

    name: str
    summary: str
    load: Callable[[], Data]
    build: Callable[[], keras.Model]
    loss: Callable[[], Any]
    batch_size: int
    epochs: int

    def model(self, seed: int) -> keras.Model:
        """A fresh, uncompiled model whose first weights follow from the seed alone."""
        state = random.getstate()
        random.seed(seed)  # initialisers without a seed draw theirs here
        try:
            return self.build()
        finally:
            random.setstate(state)

    def request(self, seed: int = 0, tier: str = "quick") -> Request:
        """The request for advice on this task; the seed fixes first weights and batch order."""
        x, y, x_val, y_val = self.load()
        return Request(
            self.model(seed), x, y, (x_val, y_val), loss=self.loss(),
            epochs=self.epochs, batch_size=self.batch_size, tier=tier, seed=seed,
        )  # fmt: skip
