"""Products with Gauss-Newton and Fisher matrices, against dense ones in float64."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest
from keras import ops

import keras_gradopt as kg
from keras_gradopt import backend

EXAMPLES, CLASSES = 12, 3
SHAPES = ((4, 3), (3,), (3, CLASSES), (CLASSES,))
RNG = np.random.default_rng(0)
X = RNG.normal(size=(EXAMPLES, 4)).astype("float32")
LABELS = RNG.integers(0, CLASSES, size=EXAMPLES)
COUNTS = RNG.uniform(0.5, 2.0, size=EXAMPLES).astype("float32")
WEIGHTS = RNG.normal(size=sum(int(np.prod(s)) for s in SHAPES)) * 0.7
DIRECTION = RNG.normal(size=WEIGHTS.size)
ONE_HOT = np.eye(CLASSES)[LABELS]


def split(vector: np.ndarray) -> list[np.ndarray]:
    ends = np.cumsum([int(np.prod(s)) for s in SHAPES])[:-1]
    return [part.reshape(s) for part, s in zip(np.split(vector, ends), SHAPES, strict=True)]


def outputs(vector: np.ndarray) -> np.ndarray:
    kernel, bias, out, out_bias = split(vector)
    return np.tanh(X @ kernel + bias) @ out + out_bias


def jacobian() -> np.ndarray:
    """Shape (examples, classes, weights), by central differences: good to 1e-9."""
    eps = 1e-5
    steps = eps * np.eye(WEIGHTS.size)
    pairs = [(outputs(WEIGHTS + s) - outputs(WEIGHTS - s)) / (2 * eps) for s in steps]
    return np.stack(pairs, axis=-1)


def mean_of(middles: np.ndarray) -> np.ndarray:
    """The weighted mean over examples of $J^T M J$, from M per example."""
    j = jacobian()
    return np.einsum("n,nka,nkl,nlb->ab", COUNTS, j, middles, j) / EXAMPLES


def softmax(z: np.ndarray) -> np.ndarray:
    e = np.exp(z - z.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True)


P = softmax(outputs(WEIGHTS))
CATEGORICAL = np.stack([np.diag(p) - np.outer(p, p) for p in P])


def tensors(vector: np.ndarray) -> list:
    return [ops.convert_to_tensor(part.astype("float32")) for part in split(vector)]


def flat(parts: list) -> np.ndarray:
    return np.concatenate([np.array(ops.convert_to_numpy(p)).ravel() for p in parts])


def objective(
    loss: Any, y: np.ndarray, activation: str | None = None, copies: int = 1
) -> kg.Objective:
    layers = [keras.layers.Dense(3, "tanh"), keras.layers.Dense(CLASSES, activation)]
    model = keras.Sequential([keras.Input((4,)), *layers])
    model.compile(optimizer="sgd", loss=loss)
    model.evaluate(X, y, verbose=0)
    for variable, value in zip(model.trainable_variables, split(WEIGHTS), strict=True):
        variable.assign(value)
    data = [np.concatenate([array] * copies) for array in (X, y, COUNTS)]
    return kg.Objective(model, tuple(ops.convert_to_tensor(array) for array in data))


def normal(number: int) -> Any:
    return lambda shape, draw: backend.normal(tuple(shape), number, 1, draw)


CASES = {
    "sparse logits": (keras.losses.SparseCategoricalCrossentropy(from_logits=True), LABELS, None),
    "sparse probabilities": ("sparse_categorical_crossentropy", LABELS, "softmax"),
    "logits": (keras.losses.CategoricalCrossentropy(from_logits=True), ONE_HOT, None),
    "probabilities": ("categorical_crossentropy", ONE_HOT, "softmax"),
}


@pytest.mark.parametrize("case", CASES)
def test_cross_entropies_have_one_matrix_from_logits_and_from_probabilities(case: str) -> None:
    loss, y, activation = CASES[case]
    found = objective(loss, y, activation)
    ws, vs = tensors(WEIGHTS), tensors(DIRECTION)
    expected = mean_of(CATEGORICAL) @ DIRECTION
    # Sums of float32 products, of order one.
    np.testing.assert_allclose(flat(found.ggnvp(ws, vs)), expected, atol=2e-6)
    np.testing.assert_allclose(flat(found.fvp(ws, vs)), expected, atol=2e-6)
    scores = np.stack([np.outer(s, s) for s in P - ONE_HOT])
    empirical = mean_of(scores) @ DIRECTION
    np.testing.assert_allclose(flat(found.fvp(ws, vs, "empirical")), empirical, atol=2e-6)


def sigmoid(z: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-z))


def curvature(name: str) -> np.ndarray:
    z = outputs(WEIGHTS)
    by_output = {"mse": np.ones_like(z) * 2, "binary": sigmoid(z) * (1 - sigmoid(z))}
    return np.stack([np.diag(row) / CLASSES for row in by_output[name]])


@pytest.mark.parametrize("name", ["mse", "binary", "binary probabilities"])
def test_means_over_outputs_too(name: str) -> None:
    loss, activation = {
        "mse": ("mse", None),
        "binary": (keras.losses.BinaryCrossentropy(from_logits=True), None),
        "binary probabilities": ("binary_crossentropy", "sigmoid"),
    }[name]
    found = objective(loss, ONE_HOT, activation)
    expected = mean_of(curvature(name.partition(" ")[0])) @ DIRECTION
    # Keras keeps probabilities 1e-7 away from 0 and 1, and divides by them.
    for times in (found.ggnvp, found.fvp):
        product = flat(times(tensors(WEIGHTS), tensors(DIRECTION)))
        np.testing.assert_allclose(product, expected, atol=1e-5)


@pytest.mark.parametrize("case", ["sparse logits", "probabilities", "mse", "binary"])
def test_draws_of_the_targets_are_unbiased(case: str) -> None:
    """The mean of Monte Carlo products, and of squared gradients: within 6 standard errors.

    With 20 nearly normal draws a right one of 108 entries fails in one run of 1000.
    """
    if case in CASES:
        loss, y, activation = CASES[case]
        middle = CATEGORICAL
    else:
        loss = "mse" if case == "mse" else keras.losses.BinaryCrossentropy(from_logits=True)
        y, activation, middle = ONE_HOT, None, curvature(case)
    draws, copies = 20, 100
    found = objective(loss, y, activation, copies)
    ws, vs = tensors(WEIGHTS), tensors(DIRECTION)
    products = np.stack([flat(found.fvp(ws, vs, "mc", normal(k))) for k in range(draws)])
    error = products.std(axis=0, ddof=1) / np.sqrt(draws)
    assert np.all(np.abs(products.mean(axis=0) - mean_of(middle) @ DIRECTION) < 6 * error + 1e-6)
    # One draw of all targets gives one square per weight, with a heavy tail: their mean is tested.
    squares = np.zeros(draws)
    j = jacobian()
    trace = np.einsum("n,nka,nkl,nla->", COUNTS, j, middle, j) / EXAMPLES
    for k in range(draws):
        squares[k] = (flat(found.sampled_gradient(ws, normal(k))) ** 2).sum()
    assert abs(squares.mean() - trace) < 6 * squares.std(ddof=1) / np.sqrt(draws)


def test_regularisers_enter_the_gauss_newton_matrix_by_their_own_hessian() -> None:
    kernel = keras.layers.Dense(CLASSES, kernel_regularizer=keras.regularizers.L2(0.25))
    model = keras.Sequential([keras.Input((4,)), kernel])
    model.compile(optimizer="sgd", loss="mse")
    model.evaluate(X, ONE_HOT, verbose=0)
    data = (ops.convert_to_tensor(X), ops.convert_to_tensor(ONE_HOT))
    found = kg.Objective(model, data)
    ws = [ops.convert_to_tensor(v) for v in model.trainable_variables]
    vs = [ops.ones_like(w) for w in ws]
    # A linear model under mean squares: its Hessian is the Gauss-Newton matrix.
    for a, b in zip(found.ggnvp(ws, vs), found.hvp(ws, vs), strict=True):
        np.testing.assert_allclose(*(ops.convert_to_numpy(t) for t in (a, b)), rtol=1e-5, atol=1e-6)
    spared = flat(found.hvp(ws, vs)) - flat(found.fvp(ws, vs))
    np.testing.assert_allclose(spared[: 4 * CLASSES], 0.5, rtol=1e-4)


def test_an_unknown_loss_has_no_fisher_information_but_says_so() -> None:
    found = objective("huber", ONE_HOT)
    with pytest.raises(ValueError, match="'huber' is no log-likelihood that is known"):
        found.fvp(tensors(WEIGHTS), tensors(DIRECTION))
    # Its Gauss-Newton matrix is that of its own Hessian in the outputs.
    inside = (np.abs(outputs(WEIGHTS) - ONE_HOT) < 1.0) / CLASSES
    expected = mean_of(np.stack([np.diag(row) for row in inside])) @ DIRECTION
    product = flat(found.ggnvp(tensors(WEIGHTS), tensors(DIRECTION)))
    np.testing.assert_allclose(product, expected, atol=2e-6)


def test_several_points_at_once() -> None:
    found = objective("mse", ONE_HOT)
    points = [WEIGHTS + 0.1 * k for k in range(3)]
    population = [ops.stack(parts) for parts in zip(*map(tensors, points), strict=True)]
    values = ops.convert_to_numpy(found.values(population))
    for value, point in zip(values, points, strict=True):
        errors = ((outputs(point) - ONE_HOT) ** 2).mean(axis=1) * COUNTS
        assert float(value) == pytest.approx(errors.mean(), rel=1e-5)
    assert found.evaluations == pytest.approx(1.0)
