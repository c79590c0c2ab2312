"""Logistic regression that tests of variance reduction train on, as a model and in NumPy."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np

import keras_gradopt as kg
from tests.keras_gradopt.problems import values

EXAMPLES, FEATURES, BATCH = 64, 4, 8
# Weight of the squared norm of the kernel, which makes the loss strongly convex in it.
DECAY = 0.05
Weights = list[np.ndarray]


def data() -> tuple[np.ndarray, np.ndarray]:
    """Labels drawn from a logistic model of features of unlike scales."""
    rng = np.random.default_rng(11)
    x = rng.normal(size=(EXAMPLES, FEATURES)) * np.array([0.5, 1.0, 1.0, 1.5])
    odds = x @ np.array([[1.0], [-2.0], [0.5], [1.0]]) + 0.3
    y = rng.uniform(size=(EXAMPLES, 1)) < 1 / (1 + np.exp(-odds))
    return x.astype("float32"), y.astype("float32")


def start() -> Weights:
    """Kernel and bias to start from."""
    return [np.linspace(-0.5, 0.5, FEATURES)[:, None], np.array([0.2])]


def model(optimizer: Any, dataset: Any = None, *, jit_compile: bool = False) -> keras.Model:
    """The bound and compiled model at `start`."""
    layer = keras.layers.Dense(1, kernel_regularizer=keras.regularizers.L2(DECAY / 2))
    made = keras.Sequential([keras.Input((FEATURES,)), layer])
    for v, value in zip(made.trainable_variables, start(), strict=True):
        v.assign(value)
    kg.bind(made, dataset=dataset)
    loss = keras.losses.BinaryCrossentropy(from_logits=True)
    made.compile(optimizer=optimizer, loss=loss, jit_compile=jit_compile)
    return made


def loss(ws: Weights, x: np.ndarray, y: np.ndarray) -> float:
    """The loss in float64."""
    w, b = (np.asarray(v, "float64") for v in ws)
    z = x.astype("float64") @ w + b
    return float(np.mean(np.logaddexp(0, z) - y * z) + DECAY / 2 * (w**2).sum())


def gradient(ws: Weights, x: np.ndarray, y: np.ndarray) -> Weights:
    """Its gradient in float64."""
    w, b = (np.asarray(v, "float64") for v in ws)
    error = 1 / (1 + np.exp(-(x.astype("float64") @ w + b))) - y
    return [x.T.astype("float64") @ error / len(x) + DECAY * w, error.mean(axis=0)]


def minibatches() -> list[tuple[np.ndarray, np.ndarray]]:
    """The data in `fit`'s order."""
    x, y = data()
    return [(x[i : i + BATCH], y[i : i + BATCH]) for i in range(0, EXAMPLES, BATCH)]


def minimum() -> Weights:
    """The minimiser, by Newton's method in float64."""
    (x, y), ws = data(), start()
    ones = np.hstack([x.astype("float64"), np.ones((EXAMPLES, 1))])
    curve = np.diag([DECAY] * FEATURES + [0.0])
    for _ in range(30):
        p = 1 / (1 + np.exp(-(ones @ np.concatenate([ws[0][:, 0], ws[1]]))))
        hessian = ones.T @ (ones * (p * (1 - p))[:, None]) / EXAMPLES + curve
        g, bias = gradient(ws, x, y)
        step = np.linalg.solve(hessian, np.concatenate([g[:, 0], bias]))
        ws = [ws[0] - step[:FEATURES, None], ws[1] - step[FEATURES:]]
    return ws


def fitted(made: keras.Model, epochs: int, *, shuffle: bool = False) -> Weights:
    """The model's weights after some epochs."""
    made.fit(*data(), epochs=epochs, batch_size=BATCH, shuffle=shuffle, verbose=0)
    return values(made.trainable_variables)


def path(rule: Callable[[int, Weights, Callable], Weights], epochs: int) -> Weights:
    """The weights after some epochs of a rule in NumPy.

    Args:
        rule: `rule(t, ws, gradient_of) -> ws`, with t from 0 and the minibatch's gradient as a
            function of the weights.
        epochs: Passes over the minibatches.
    """
    ws = start()
    for t, (x, y) in enumerate(minibatches() * epochs):
        ws = rule(t, ws, lambda at, x=x, y=y: gradient(at, x, y))
    return ws
