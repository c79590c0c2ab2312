"""Small problems that tests train on: fixed arrays, and gradients in NumPy."""

from __future__ import annotations

import keras
import numpy as np

RNG_SEED = 7
# A matrix, a vector, a convolution kernel and an embedding table.
SHAPES = ((4, 3), (3,), (2, 2, 3, 2), (6, 4))


def start_weights(shapes: tuple = SHAPES) -> list[np.ndarray]:
    """Weights of order one, the same on every backend."""
    rng = np.random.default_rng(RNG_SEED)
    return [rng.normal(size=shape).astype("float32") for shape in shapes]


def gradients(weights: list[np.ndarray], step: int) -> list[np.ndarray]:
    """Gradients of a bowl of other curvature in each coordinate, with noise fixed per step."""
    rng = np.random.default_rng(1000 + step)
    found = []
    for position, w in enumerate(weights):
        curvature = np.linspace(0.2, 3.0, w.size).reshape(w.shape)
        target = np.cos(np.arange(w.size)).reshape(w.shape)
        noise = rng.normal(size=w.shape) * 0.3
        found.append((curvature * (w - target) + noise + 0.1 * position).astype("float32"))
    return found


def train(
    optimizer: keras.optimizers.Optimizer,
    steps: int,
    weights: list | None = None,
    *,
    evaluated: bool = False,
) -> list:
    """Runs `steps` steps on `gradients`; returns the weights after each step, as NumPy arrays.

    With `evaluated` they are those that the optimizer wants evaluated.
    """
    variables = [
        keras.Variable(w, name=f"w{i}")
        for i, w in enumerate(start_weights() if weights is None else weights)
    ]
    path = []
    for step in range(steps):
        values = [keras.ops.convert_to_numpy(v.value) for v in variables]
        grads = [keras.ops.convert_to_tensor(g) for g in gradients(values, step)]
        optimizer.apply(grads, variables)
        if evaluated:
            optimizer.put_evaluation_weights(variables)
        path.append([keras.ops.convert_to_numpy(v.value).copy() for v in variables])
        if evaluated:
            optimizer.put_training_weights(variables)
    return path


def assert_close(actual: list, expected: list, tolerance: float) -> None:
    """Compares two paths: the largest deviation relative to the weights' largest entry."""
    for step, (a_step, e_step) in enumerate(zip(actual, expected, strict=True)):
        for a, e in zip(a_step, e_step, strict=True):
            difference = np.asarray(a, "float64") - np.asarray(e, "float64")
            deviation = np.abs(difference).max() / np.abs(e).max()
            assert deviation <= tolerance, f"step {step}: {deviation:.2e} > {tolerance:.0e}"


def regression_data(samples: int = 64, features: int = 5) -> tuple[np.ndarray, np.ndarray]:
    """A noisy linear problem."""
    rng = np.random.default_rng(3)
    x = rng.normal(size=(samples, features)).astype("float32")
    y = x @ np.arange(1, features + 1)[:, None] * 0.3 + 0.05 * rng.normal(size=(samples, 1))
    return x, y.astype("float32")


def network(
    *, dropout: float = 0.0, batch_norm: bool = False, dtype: str | None = None
) -> keras.Model:
    """A small network with fixed initial weights."""
    layers = [keras.Input((5,)), keras.layers.Dense(8, activation="tanh", dtype=dtype)]
    if batch_norm:
        layers.append(keras.layers.BatchNormalization(dtype=dtype))
    if dropout:
        layers.append(keras.layers.Dropout(dropout, seed=1, dtype=dtype))
    model = keras.Sequential([*layers, keras.layers.Dense(1, dtype=dtype)])
    rng = np.random.default_rng(5)
    for v in model.trainable_variables:
        if v.name == "kernel":
            v.assign(rng.normal(size=v.shape) * 0.5)
    return model


def values(variables: list) -> list[np.ndarray]:
    """The variables' present values as float32 NumPy arrays."""
    return [
        np.array(keras.ops.convert_to_numpy(keras.ops.cast(v.value, "float32"))) for v in variables
    ]
