"""Prints where every optimizer of the registry goes on the running backend, as a NumPy file.

KERAS_BACKEND=jax python -m tests.keras_gradopt.trajectories OUT.npz
"""

from __future__ import annotations

import sys

import keras
import numpy as np

import keras_gradopt as kg
from keras_gradopt import registry
from tests.keras_gradopt.problems import network, regression_data, train, values

STEPS = 20


def base_arguments() -> dict:
    """Decay, a schedule and clipping switched on."""
    return {
        "learning_rate": kg.schedules.WarmupStableDecay(0.02, 5, 10, 10),
        "weight_decay": 0.1,
        "global_clipnorm": 2.0,
    }


def straight() -> keras.Model:
    """A linear model, which has one minimum."""
    dense = keras.layers.Dense(1, kernel_initializer="zeros")
    return keras.Sequential([keras.Input((5,)), dense])


def main(path: str) -> None:
    """Runs everything and writes `path`."""
    found: dict[str, np.ndarray] = {}
    for name, cls in registry.optimizer_classes().items():
        if cls.draws:
            continue
        given = {k: v for k, v in base_arguments().items() if k not in cls.refused}
        if cls.wants_whole_data or getattr(cls, "sets_rate", False):
            # Its rate is the first trial of a search, or learned.
            del given["learning_rate"]
        if cls.needs == "gradient":
            end = train(cls.example(**given), STEPS)[-1]
        else:
            x, y = regression_data(32)
            # A search goes other ways by rounding alone, but for one minimum it has one end.
            is_search = cls.wants_whole_data
            model = straight() if is_search else network(batch_norm=True)
            kg.bind(model, dataset=(x, y))
            model.compile(optimizer=cls.example(**given), loss="mse")
            model.fit(x, y, epochs=STEPS, batch_size=32, shuffle=False, verbose=0)
            end = values(model.trainable_variables)
        found.update({f"{name}/{i}": w for i, w in enumerate(end)})
    np.savez(path, backend=keras.backend.backend(), **found)


if __name__ == "__main__":
    main(sys.argv[1])
