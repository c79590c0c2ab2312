"""A small network with its Hessian in float64, which tests of curvature compare with."""

from __future__ import annotations

import keras
import numpy as np

from tests.keras_gradopt.problems import regression_data

ROWS, FEATURES, HIDDEN = 20, 3, 4
SIZE = FEATURES * HIDDEN + HIDDEN + HIDDEN + 1


def data() -> tuple[np.ndarray, np.ndarray]:
    x, y = regression_data(ROWS, FEATURES)
    return x, np.sin(3 * y).astype("float32")


def weights() -> np.ndarray:
    """Of order one: the Hessian is indefinite there."""
    return np.random.default_rng(11).normal(size=SIZE).astype("float32").astype("float64")


def compiled(w: np.ndarray | None = None, optimizer: object = "sgd") -> keras.Model:
    """3 inputs, 4 tanh units, 1 output, mean squared error."""
    layers = [keras.layers.Dense(HIDDEN, "tanh", name="low"), keras.layers.Dense(1, name="high")]
    model = keras.Sequential([keras.Input((FEATURES,)), *layers])
    put(model, weights() if w is None else w)
    model.compile(optimizer=optimizer, loss="mse")
    return model


def put(model: keras.Model, w: np.ndarray) -> None:
    for variable, value in zip(model.trainable_variables, cut(w), strict=True):
        variable.assign(value)


def cut(w: np.ndarray) -> list[np.ndarray]:
    ends = np.cumsum([FEATURES * HIDDEN, HIDDEN, HIDDEN])
    a, b, c, d = np.split(w, ends)
    return [a.reshape(FEATURES, HIDDEN), b, c.reshape(HIDDEN, 1), d]


def loss(w: np.ndarray) -> float:
    x, y = (a.astype("float64") for a in data())
    a, b, c, d = cut(w)
    return float(np.mean((np.tanh(x @ a + b) @ c + d - y) ** 2))


def row_gradients(w: np.ndarray) -> np.ndarray:
    """Each row's own gradient, shape (rows, size), by the chain rule."""
    x, y = (a.astype("float64") for a in data())
    a, b, c, d = cut(w)
    h = np.tanh(x @ a + b)
    e = 2 * (h @ c + d - y)
    return e * jacobian(w)


def jacobian(w: np.ndarray) -> np.ndarray:
    """The output's derivative by the weights, shape (rows, size)."""
    x = data()[0].astype("float64")
    a, b, c, _ = cut(w)
    h = np.tanh(x @ a + b)
    inner = (1 - h**2) * c[:, 0]
    first = (x[:, :, None] * inner[:, None, :]).reshape(len(x), -1)
    return np.concatenate([first, inner, h, np.ones((len(x), 1))], axis=1)


def gradient(w: np.ndarray) -> np.ndarray:
    return row_gradients(w).mean(axis=0)


def hessian(w: np.ndarray | None = None) -> np.ndarray:
    """Central differences of the gradient, good to about 1e-9."""
    w, eps = weights() if w is None else w, 1e-5
    columns = [(gradient(w + eps * e) - gradient(w - eps * e)) / (2 * eps) for e in np.eye(len(w))]
    found = np.stack(columns)
    return (found + found.T) / 2


def gauss_newton(w: np.ndarray) -> np.ndarray:
    j = jacobian(w)
    return 2 * j.T @ j / len(j)
