"""Small models and data that the recommender's tests share."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np

from recommender.problem import Problem, build
from recommender.request import Request, checked


def data(rows: int = 400, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """A nonlinear regression of four inputs."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(rows, 4)).astype("float32")
    y = np.sin(x[:, :1]) + 0.5 * x[:, 1:2] * x[:, 2:3] + 0.1 * rng.normal(size=(rows, 1))
    return x, y.astype("float32")


def model(*, batch_norm: bool = False, dropout: float = 0.0) -> keras.Model:
    """A small network with fixed first weights."""
    layers: list[Any] = [keras.Input((4,)), keras.layers.Dense(16, activation="tanh")]
    if batch_norm:
        layers.append(keras.layers.BatchNormalization())
    if dropout:
        layers.append(keras.layers.Dropout(dropout, seed=3))
    net = keras.Sequential([*layers, keras.layers.Dense(1)])
    rng = np.random.default_rng(5)
    for v in net.trainable_variables:
        if v.name == "kernel":
            v.assign(rng.normal(size=v.shape) * 0.4)
    return net


def problem(**changes: Any) -> Problem:
    """A checked problem of some 2 000 steps."""
    x, y = data()
    arguments: dict[str, Any] = {
        "model": model(),
        "x": x,
        "y": y,
        "loss": "mse",
        "epochs": 200,
        "batch_size": 32,
    }
    return build(checked(Request(**(arguments | changes))))
