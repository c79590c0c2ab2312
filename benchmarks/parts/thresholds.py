"""A network of hard thresholds, which has no usable gradient, on scikit-learn's digits."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from keras import ops
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

import keras_gradopt as kg

TITLE = "Digits, 64 inputs, 16 hard thresholds, 10 classes: 1210 weights"
# Losses of a minibatch that each method may evaluate.
EVALUATIONS = 200_000
BATCH = 256


class Threshold(keras.layers.Layer):
    """1 where the input is above 0, else 0: its gradient is 0 everywhere."""

    def call(self, x: Any) -> Any:
        """The same shape as `x`."""
        return ops.cast(x > 0, x.dtype)


def contenders() -> dict[str, tuple[Callable[[], Any], int]]:
    """Optimizers by name, and the losses that a step of each takes."""
    return {
        "Adam (the thresholds learn nothing)": (lambda: kg.Adam(0.01), 3),
        "SPSA": (lambda: kg.SPSA(0.5, perturbation=0.05, averages=8), 17),
        "CMA-ES, separable": (lambda: kg.CMAES(sigma=0.1, population_size=50), 51),
        "evolution strategy": (
            lambda: kg.EvolutionStrategy(0.02, population_size=100, sigma=0.1),
            101,
        ),
    }


def accuracy(make: Callable[[], Any], losses_per_step: int, seed: int) -> float:
    """The share of test digits that are right after training with so many losses."""
    digits = load_digits()
    x, y = (digits.data / 16).astype("float32"), digits.target.astype("int32")
    x, x_test, y, y_test = train_test_split(x, y, test_size=0.25, random_state=0, stratify=y)
    keras.utils.set_random_seed(seed)
    layers = [keras.layers.Dense(16), Threshold(), keras.layers.Dense(10)]
    model = kg.bind(keras.Sequential([keras.Input((64,)), *layers]))
    optimizer = make()
    model.compile(
        optimizer,
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
        jit_compile=keras.backend.backend() != "torch",
    )
    x, y = x[: len(x) // BATCH * BATCH], y[: len(x) // BATCH * BATCH]
    per_epoch = len(x) // BATCH * losses_per_step
    model.fit(x, y, batch_size=BATCH, epochs=max(1, EVALUATIONS // per_epoch), verbose=0)
    return float(model.evaluate(x_test, y_test, verbose=0, return_dict=True)["accuracy"])


def accuracies(make: Callable[[], Any], losses_per_step: int, seeds: int) -> list[float]:
    """`accuracy` of several seeds."""
    return [float(np.round(accuracy(make, losses_per_step, seed), 4)) for seed in range(seeds)]
