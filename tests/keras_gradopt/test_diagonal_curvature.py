"""Diagonal curvature and natural gradients: against NumPy in float64, and dense matrices."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest
from keras import ops

import keras_gradopt as kg
from tests.keras_gradopt import test_gauss_newton as dense
from tests.keras_gradopt.problems import regression_data, values
from tests.keras_gradopt.test_second_order import ONE, Function, evaluations

JIT = keras.backend.backend() == "jax"
START = np.array([1.5, -0.7, 0.3, -2.0])
CURVATURE = np.array([0.1, 1.0, 5.0, 20.0])


def separable(w: Any) -> Any:
    """Its Hessian is diagonal, so that random signs measure it without any error."""
    curvature = ops.convert_to_tensor(CURVATURE.astype("float32"))
    return ops.sum(0.5 * curvature * w**2 + 0.25 * w**4)


def gradient(w: np.ndarray) -> np.ndarray:
    return CURVATURE * w + w**3


def hessian(w: np.ndarray) -> np.ndarray:
    return CURVATURE + 3 * w**2


def compare(optimizer: Any, step: Callable[[np.ndarray, int], np.ndarray], steps: int = 25) -> Any:
    """The optimizer's path beside the reference's, step by step."""
    layer = Function(separable, list(START))
    model = keras.Sequential([keras.Input((1,)), layer])
    kg.bind(model).compile(optimizer, loss="mse", jit_compile=JIT)
    w = START.copy()
    for number in range(1, steps + 1):
        model.fit(ONE, ONE, batch_size=2, epochs=1, verbose=0)
        w = step(w, number)
        # Sums of float32 products against float64.
        np.testing.assert_allclose(ops.convert_to_numpy(layer.point), w, rtol=2e-5, atol=2e-5)
    return model.optimizer


def test_sophia_is_its_algorithm_3() -> None:
    m, h = np.zeros(4), np.zeros(4)

    def step(w: np.ndarray, number: int) -> np.ndarray:
        nonlocal m, h
        m = 0.9 * m + 0.1 * gradient(w)
        if number % 3 == 1:
            h = 0.8 * h + 0.2 * hessian(w)
        return w - 0.05 * np.clip(m / np.maximum(2.0 * h, 1e-12), -1, 1)

    optimizer = kg.Sophia(0.05, beta_1=0.9, beta_2=0.8, gamma=2.0, interval=3)
    optimizer = compare(optimizer, step)
    # 25 gradients, and 9 products of three.
    assert evaluations(optimizer) == 25 + 9 * 3


def test_adahessian_is_its_algorithm_1() -> None:
    m, v = np.zeros(4), np.zeros(4)

    def step(w: np.ndarray, number: int) -> np.ndarray:
        nonlocal m, v
        m = 0.9 * m + 0.1 * gradient(w)
        v = 0.99 * v + 0.01 * hessian(w) ** 2
        bias_1, bias_2 = 1 - 0.9**number, 1 - 0.99**number
        return w - 0.1 * (m / bias_1) / ((v / bias_2) ** 0.4 + 1e-4)

    optimizer = kg.AdaHessian(0.1, beta_2=0.99, epsilon=1e-4, hessian_power=0.8)
    assert evaluations(compare(optimizer, step)) == 25 * 4


def test_adahessian_goes_the_way_of_pytorch_optimizer_s() -> None:
    torch = pytest.importorskip("torch")
    peers = pytest.importorskip("pytorch_optimizer")
    point = torch.nn.Parameter(torch.tensor(START, dtype=torch.float64))
    peer = peers.AdaHessian([point], lr=0.1, betas=(0.9, 0.999), eps=1e-8, hessian_power=1.0)
    curvature = torch.tensor(CURVATURE)

    def step(w: np.ndarray, number: int) -> np.ndarray:
        del w, number
        loss = (0.5 * curvature * point**2 + 0.25 * point**4).sum()
        (point.grad,) = torch.autograd.grad(loss, point, create_graph=True)
        peer.step()
        point.grad = None
        return point.detach().numpy().copy()

    compare(kg.AdaHessian(0.1), step)


def test_adahessian_averages_over_a_convolution_s_window() -> None:
    """Equation (10): all entries of one window share the mean magnitude of their curvatures."""
    model = keras.Sequential([keras.Input((6, 6, 2)), keras.layers.Conv2D(3, 3)])
    kg.bind(model).compile(kg.AdaHessian(0.1), loss="mse", jit_compile=JIT)
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(8, 6, 6, 2)), rng.normal(size=(8, 4, 4, 3))
    model.fit(x, y, batch_size=8, verbose=0)
    kernel = next(v for v in model.optimizer.variables if "kernel_squared" in v.path)
    found = values([kernel])[0]
    assert found.std() > 0
    np.testing.assert_allclose(found, np.broadcast_to(found[:1, :1], found.shape), rtol=1e-6)


@pytest.mark.parametrize("name", ["sophia", "adahessian"])
def test_an_interval_leaves_products_out(name: str) -> None:
    x, y = regression_data()
    model = keras.Sequential([keras.Input((5,)), keras.layers.Dense(1)])
    optimizer = {"sophia": kg.Sophia, "adahessian": kg.AdaHessian}[name](interval=4)
    kg.bind(model).compile(optimizer, loss="mse", jit_compile=JIT)
    model.fit(x, y, batch_size=8, verbose=0)
    assert evaluations(model.optimizer) == 8 + 2 * 3


def natural(fisher: str, loss: Any, y: np.ndarray, activation: str | None = None) -> np.ndarray:
    """The change that one step of natural gradient makes, all weights as one vector."""
    layers = [keras.layers.Dense(3, "tanh"), keras.layers.Dense(dense.CLASSES, activation)]
    model = keras.Sequential([keras.Input((4,)), *layers])
    optimizer = kg.NaturalGradient(0.5, damping=0.1, fisher=fisher, cg_iterations=40)
    kg.bind(model).compile(optimizer, loss=loss, jit_compile=JIT)
    start = dense.split(dense.WEIGHTS)
    for v, value in zip(model.trainable_variables, start, strict=True):
        v.assign(value)
    model.fit(dense.X, y, sample_weight=dense.COUNTS, batch_size=dense.EXAMPLES, verbose=0)
    return dense.flat(model.trainable_variables) - dense.WEIGHTS.astype("float32")


def inverse(matrix: np.ndarray) -> np.ndarray:
    """The step by the dense matrix, with the gradient of the weighted cross-entropy."""
    scores = dense.P - dense.ONE_HOT
    g = np.einsum("n,nka,nk->a", dense.COUNTS, dense.jacobian(), scores) / dense.EXAMPLES
    return -0.5 * np.linalg.solve(matrix + 0.1 * np.eye(len(g)), g)


@pytest.mark.parametrize("case", ["sparse logits", "probabilities"])
def test_the_natural_gradient_is_the_dense_fisher_matrix_s(case: str) -> None:
    loss, y, activation = dense.CASES[case]
    found = natural("exact", loss, y, activation)
    np.testing.assert_allclose(found, inverse(dense.mean_of(dense.CATEGORICAL)), atol=2e-4)


def test_the_empirical_one_takes_the_data_s_targets() -> None:
    loss, y, activation = dense.CASES["logits"]
    scores = np.stack([np.outer(s, s) for s in dense.P - dense.ONE_HOT])
    found = natural("empirical", loss, y, activation)
    np.testing.assert_allclose(found, inverse(dense.mean_of(scores)), atol=2e-4)


def test_a_step_keeps_to_the_divergence_that_it_may_make() -> None:
    """A unit's outputs move so that the mean of squares is the limit: $F$ is $2 x x^T$."""
    x, y = regression_data()
    model = keras.Sequential([keras.Input((5,)), keras.layers.Dense(1)])
    optimizer = kg.NaturalGradient(1.0, damping=1e-4, max_divergence=0.01)
    kg.bind(model).compile(optimizer, loss="mse", jit_compile=JIT)
    before = model.predict(x, verbose=0)
    model.fit(x, y, batch_size=64, verbose=0)
    moved = model.predict(x, verbose=0) - before
    assert 2 * np.mean(moved**2) == pytest.approx(0.01, rel=1e-2)


def test_the_diagonal_is_that_of_the_fisher_matrix() -> None:
    """At rest its mean over many draws is twice the mean square of each input, for mean squares."""
    x, y = regression_data()
    model = keras.Sequential([keras.Input((5,)), keras.layers.Dense(1, use_bias=False)])
    steps = 120
    optimizer = kg.DiagonalNaturalGradient(0.0, beta=0.9999)
    kg.bind(model).compile(optimizer, loss="mse", jit_compile=JIT)
    model.fit(x, y, batch_size=64, epochs=steps, verbose=0)
    slot = next(v for v in model.optimizer.variables if "fisher" in v.path)
    found = values([slot])[0][:, 0] / (1 - 0.9999**steps)
    ratios = found / (2 * (x**2).mean(axis=0))
    # A square of a normal number has a deviation of sqrt(2) times its mean; five of them.
    assert abs(ratios.mean() - 1) < 5 * np.sqrt(2 / (steps * len(ratios)))
