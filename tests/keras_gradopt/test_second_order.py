"""Rules that search by the loss: against SciPy and optax, at saddles, and where no step is left."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np
import pytest
import scipy.optimize
from keras import ops
from scipy.optimize import rosen, rosen_der

import keras_gradopt as kg
from keras_gradopt import registry
from tests.keras_gradopt.problems import network, regression_data, values

BACKEND = keras.backend.backend()
# Compiled steps start sooner on JAX; the other backends run loops of Python.
JIT = BACKEND == "jax"
SEARCHING = [c for c in registry.optimizer_classes().values() if hasattr(c, "verdict")]
# One with gradients only and one with products stand for the others in what all of them share.
FAMILY = [
    c if c in (kg.LBFGS, kg.NewtonCG) else pytest.param(c, marks=pytest.mark.slow)
    for c in SEARCHING
]
every_search = pytest.mark.parametrize("cls", FAMILY, ids=lambda c: c.__name__)


@contextlib.contextmanager
def double_precision() -> Iterator[None]:
    """float64 throughout, which JAX has only where it is asked for."""
    keras.config.set_floatx("float64")
    keras.config.set_dtype_policy("float64")
    if BACKEND != "jax":
        yield
        return
    import jax

    jax.config.update("jax_enable_x64", True)
    try:
        yield
    finally:
        jax.config.update("jax_enable_x64", False)


class Function(keras.layers.Layer):
    """A function of one vector of weights as the loss of a model; its inputs do not matter."""

    def __init__(self, function: Any, start: list[float]) -> None:
        super().__init__()
        self._function, self._start = function, np.array(start)

    def build(self, shape: Any) -> None:
        del shape
        self.point = self.add_weight(shape=self._start.shape, initializer="zeros", name="point")
        self.point.assign(self._start)

    def call(self, x: Any) -> Any:
        self.add_loss(self._function(ops.convert_to_tensor(self.point)))
        return 0.0 * x


ONE = np.zeros((2, 1))


def minimised(
    function: Any, start: list[float], optimizer: Any, steps: int, jit_compile: bool = JIT
) -> tuple[np.ndarray, Any]:
    """Where an optimizer goes in some steps, and the optimizer."""
    layer = Function(function, start)
    model = keras.Sequential([keras.Input((1,)), layer])
    kg.bind(model).compile(optimizer, loss="mse", jit_compile=jit_compile)
    model.fit(ONE, ONE, batch_size=2, epochs=steps, verbose=0)
    return np.array(ops.convert_to_numpy(layer.point)), model.optimizer


def rosenbrock(w: Any) -> Any:
    return ops.sum(100.0 * (w[1:] - w[:-1] ** 2) ** 2 + (1.0 - w[:-1]) ** 2)


def evaluations(optimizer: Any) -> float:
    return float(ops.convert_to_tensor(optimizer.evaluations))


START = [-1.2, 1.0, 0.5, -0.5]


@pytest.mark.parametrize("name", ["lbfgs", "bfgs"])
def test_quasi_newton_needs_no_more_evaluations_than_scipy_s(name: str) -> None:
    method = {"lbfgs": "L-BFGS-B", "bfgs": "BFGS"}[name]
    peer = scipy.optimize.minimize(
        rosen, START, jac=rosen_der, method=method, options={"gtol": 1e-7}
    )
    with double_precision():
        optimizer = registry.find(name)(iterations_per_step=100, tolerance=1e-7)
        found, optimizer = minimised(rosenbrock, START, optimizer, 2)
        # The last evaluation finds nothing more to do, as a second step does.
        assert evaluations(optimizer) <= 1.2 * peer.nfev + 2
    np.testing.assert_allclose(found, np.ones(4), atol=1e-6)
    assert rosen(found) <= max(peer.fun, 1e-12)


def test_lbfgs_needs_no_more_evaluations_than_optax_s() -> None:
    optax = pytest.importorskip("optax")
    jax = pytest.importorskip("jax")
    before = jax.config.jax_enable_x64
    jax.config.update("jax_enable_x64", True)
    try:
        peer, function = (
            optax.lbfgs(),
            lambda w: 100.0 * ((w[1:] - w[:-1] ** 2) ** 2).sum() + ((1.0 - w[:-1]) ** 2).sum(),
        )
        w = jax.numpy.array(START)
        state, spent = peer.init(w), 0
        both = optax.value_and_grad_from_state(function)

        @jax.jit
        def step(w: Any, state: Any) -> tuple:
            value, g = both(w, state=state)
            updates, state = peer.update(g, state, w, value=value, grad=g, value_fn=function)
            return optax.apply_updates(w, updates), state, g

        for _ in range(100):
            w, state, g = step(w, state)
            spent += int(state[-1].info.num_linesearch_steps)
            if float(abs(g).max()) <= 1e-7:
                break
    finally:
        jax.config.update("jax_enable_x64", before)
    with double_precision():
        found, optimizer = minimised(
            rosenbrock, START, kg.LBFGS(iterations_per_step=100, tolerance=1e-7), 2
        )
        assert evaluations(optimizer) <= 1.2 * spent + 2
    np.testing.assert_allclose(found, np.asarray(w), atol=1e-6)


def logistic_data() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(4)
    x = rng.normal(size=(80, 6)) * np.logspace(0, 1, 6)
    return x, (x @ np.ones(6) * 0.3 + rng.normal(size=80) > 0).astype("float64")[:, None]


class Linear(keras.layers.Layer):
    """A unit without bias: Keras 3.15 multiplies matrices in float32 on torch."""

    def build(self, shape: Any) -> None:
        penalty = keras.regularizers.L2(1e-3)
        self.w = self.add_weight(shape=shape[1:], initializer="zeros", regularizer=penalty)

    def call(self, x: Any) -> Any:
        return ops.sum(x * self.w, axis=-1, keepdims=True)


def logistic(optimizer: Any, steps: int) -> tuple[np.ndarray, Any]:
    """A regularised logistic regression's minimiser."""
    x, y = logistic_data()
    layer = Linear()
    model = keras.Sequential([keras.Input((6,)), layer])
    loss = keras.losses.BinaryCrossentropy(from_logits=True)
    kg.bind(model).compile(optimizer, loss=loss, jit_compile=JIT)
    model.fit(x, y, batch_size=80, epochs=steps, verbose=0)
    return np.array(ops.convert_to_numpy(layer.w)), model.optimizer


def logistic_loss(w: np.ndarray) -> tuple[float, np.ndarray]:
    x, y = logistic_data()
    z = x @ w
    p = 1 / (1 + np.exp(-z))
    value = np.mean(np.logaddexp(0, z) - y[:, 0] * z) + 1e-3 * w @ w
    return value, x.T @ (p - y[:, 0]) / len(x) + 2e-3 * w


def logistic_hessian(w: np.ndarray) -> np.ndarray:
    x, _ = logistic_data()
    p = 1 / (1 + np.exp(-x @ w))
    return x.T @ (x * (p * (1 - p))[:, None]) / len(x) + 2e-3 * np.eye(6)


SMOOTH = {
    "lbfgs": {"iterations_per_step": 50},
    "bfgs": {"iterations_per_step": 50},
    "newton": {"damping": 1e-6},
    "newton_cg": {"damping": kg.Damping(1e-6, adapts=False)},
    "saddle_free_newton": {"damping": 1e-6, "subspace": 6},
}


@pytest.mark.parametrize("name", SMOOTH)
def test_logistic_regression_ends_at_scipy_s_minimiser(name: str) -> None:
    peer = scipy.optimize.minimize(
        logistic_loss, np.zeros(6), jac=True, hess=logistic_hessian, method="trust-exact", tol=1e-12
    )
    with double_precision():
        found, _ = logistic(registry.find(name)(tolerance=1e-9, **SMOOTH[name]), 12)
    # Where the loss changes in its 16th digit, the weights do in their eighth.
    np.testing.assert_allclose(found, peer.x, atol=1e-6)


def test_newton_cg_takes_scipy_s_number_of_iterations() -> None:
    peer = scipy.optimize.minimize(
        logistic_loss, np.zeros(6), jac=True, hess=logistic_hessian, method="Newton-CG", tol=1e-8
    )
    exact = scipy.optimize.minimize(
        logistic_loss, peer.x, jac=True, hess=logistic_hessian, method="trust-exact", tol=1e-12
    )
    with double_precision():
        damping = kg.Damping(1e-8, adapts=False)
        optimizer = kg.NewtonCG(curvature="hessian", damping=damping, tolerance=1e-9)
        found, _ = logistic(optimizer, int(1.2 * peer.nit))
    assert np.abs(found - exact.x).max() <= np.abs(peer.x - exact.x).max()


def test_levenberg_marquardt_fits_as_scipy_does() -> None:
    rng = np.random.default_rng(2)
    x = np.linspace(0, 3, 40)[:, None]
    y = 2.0 * np.exp(-1.3 * x) + 0.5 * np.sin(2.0 * x) + 0.01 * rng.normal(size=x.shape)

    class Curve(keras.layers.Layer):
        def build(self, shape: Any) -> None:
            del shape
            self.w = self.add_weight(shape=(4,), initializer="ones", name="w")

        def call(self, x: Any) -> Any:
            w = ops.convert_to_tensor(self.w)
            return w[0] * ops.exp(-w[1] * x) + w[2] * ops.sin(w[3] * x)

    def residuals(w: np.ndarray) -> np.ndarray:
        return (w[0] * np.exp(-w[1] * x) + w[2] * np.sin(w[3] * x) - y)[:, 0]

    def jacobian(w: np.ndarray) -> np.ndarray:
        decay = np.exp(-w[1] * x)
        wave = np.sin(w[3] * x), w[2] * x * np.cos(w[3] * x)
        return np.concatenate([decay, -w[0] * x * decay, *wave], axis=1)

    peer = scipy.optimize.least_squares(
        residuals, np.ones(4), jacobian, method="lm", xtol=1e-12, ftol=1e-12
    )
    with double_precision():
        layer = Curve()
        model = keras.Sequential([keras.Input((1,)), layer])
        kg.bind(model).compile(kg.LevenbergMarquardt(), loss="mse", jit_compile=JIT)
        # An iteration of SciPy's is a Jacobian, as a step is here.
        model.fit(x, y, batch_size=40, epochs=int(1.2 * peer.njev) + 2, verbose=0)
        found = np.array(ops.convert_to_numpy(layer.w))
    np.testing.assert_allclose(found, peer.x, rtol=1e-5)
    assert np.sum(residuals(found) ** 2) == pytest.approx(2 * peer.cost, rel=1e-8)


def test_newton_s_step_is_the_damped_solution() -> None:
    """One step on a quadratic against NumPy."""
    rng = np.random.default_rng(1)
    square = rng.normal(size=(5, 5))
    a, b = square @ square.T + np.eye(5), rng.normal(size=5)
    expected = -np.linalg.solve(a + 0.5 * np.eye(5), b)

    def quadratic(w: Any) -> Any:
        matrix, linear = (ops.cast(ops.convert_to_tensor(t), w.dtype) for t in (a, b))
        return 0.5 * ops.sum(w * ops.matmul(matrix, w)) + ops.sum(linear * w)

    for optimizer in (
        kg.Newton(damping=0.5),
        kg.NewtonCG(curvature="hessian", damping=0.5, cg_iterations=5, precondition=False),
        kg.SaddleFreeNewton(damping=0.5, subspace=5),
    ):
        found, _ = minimised(quadratic, [0.0] * 5, optimizer, 1)
        # Conjugate gradients stop at a residual of sqrt(|g|) |g|, at most half of it.
        loose = isinstance(optimizer, kg.NewtonCG)
        np.testing.assert_allclose(found, expected, atol=0.2 if loose else 2e-4)


def saddle(w: Any) -> Any:
    """A saddle at 0: up along the first axis, down along the second until 1."""
    return w[0] ** 2 - 0.5 * w[1] ** 2 + 0.25 * w[1] ** 4 + ops.sum(w[2:] ** 2)


ESCAPING = {
    "newton": {"damping": 1e-3},
    "newton_cg": {"damping": 1e-3, "curvature": "hessian"},
    "saddle_free_newton": {},
}


@pytest.mark.parametrize("name", ESCAPING)
def test_a_saddle_is_left_within_five_steps(name: str) -> None:
    """The value there is 0, the minima's -1/4; the gradient is exactly 0, so SGD stays."""
    stays, _ = minimised(saddle, [0.0] * 6, kg.SGD(0.1), 20)
    np.testing.assert_array_equal(stays, np.zeros(6))
    found, _ = minimised(saddle, [0.0] * 6, registry.find(name)(**ESCAPING[name]), 5)
    assert abs(found[1]) == pytest.approx(1.0, abs=1e-2)
    np.testing.assert_allclose(np.delete(found, 1), 0.0, atol=1e-2)


@pytest.mark.parametrize("name", ESCAPING)
def test_a_network_of_zeros_is_left_where_sgd_stays(name: str) -> None:
    """With all weights 0 a network of two layers has gradients in its last bias only."""
    x, y = regression_data()
    y = y - y.mean(axis=0)
    losses = {}
    for label, optimizer in (("sgd", kg.SGD(0.1)), (name, registry.find(name)(**ESCAPING[name]))):
        model = network()
        for v in model.trainable_variables:
            v.assign(np.zeros(v.shape))
        kg.bind(model).compile(optimizer, loss="mse", jit_compile=JIT)
        history = model.fit(x, y, batch_size=64, epochs=8, verbose=0)
        losses[label] = history.history["loss"]
    assert losses["sgd"][-1] == pytest.approx(losses["sgd"][0], rel=1e-5)
    assert losses[name][-1] < 0.5 * losses[name][0]


# ---------------------------------------------------------------------- what users run into


@every_search
def test_a_minimum_ends_the_training_and_moves_nothing(cls: type) -> None:
    model = keras.Sequential([keras.Input((5,)), keras.layers.Dense(1)])
    x, _ = regression_data()
    y = np.array(model.predict(x, verbose=0))
    before = values(model.trainable_variables)
    kg.bind(model).compile(cls(tolerance=1e-4), loss="mse", jit_compile=JIT)
    history = model.fit(x, y, batch_size=64, epochs=4, verbose=0)
    assert len(history.history["loss"]) == 1
    for a, b in zip(values(model.trainable_variables), before, strict=True):
        np.testing.assert_array_equal(a, b)


class Lying(keras.losses.Loss):
    """Its gradient points uphill: no step along the descent lowers it."""

    def call(self, y_true: Any, y_pred: Any) -> Any:
        square = (y_pred - y_true) ** 2
        return 2.0 * ops.stop_gradient(square) - square


@every_search
def test_a_search_without_a_step_stops_whole_and_says_why(cls: type) -> None:
    x, y = regression_data()
    model = network()
    before = values(model.trainable_variables)
    kg.bind(model).compile(cls(), loss=Lying(name="mean_squared_error"), jit_compile=JIT)
    if cls is registry.find("levenberg_marquardt"):
        with pytest.raises(ValueError, match="loss='mse'"):
            model.fit(x, y, batch_size=64, epochs=3, verbose=0)
        return
    with pytest.warns(UserWarning, match=f"{cls.__name__} stops after epoch .*no step along"):
        model.fit(x, y, batch_size=64, epochs=3, verbose=0)
    for a, b in zip(values(model.trainable_variables), before, strict=True):
        np.testing.assert_array_equal(a, b)


@every_search
def test_a_loss_that_is_no_number_moves_nothing_and_says_so(cls: type) -> None:
    x, y = regression_data()
    x[3, 2] = np.nan
    model = network()
    before = values(model.trainable_variables)
    kg.bind(model).compile(cls(), loss="mse", jit_compile=JIT)
    with pytest.warns(UserWarning, match="not finite"):
        model.fit(x, y, batch_size=64, epochs=2, verbose=0)
    for a, b in zip(values(model.trainable_variables), before, strict=True):
        np.testing.assert_array_equal(a, b)


@every_search
def test_a_warmup_that_begins_at_zero_is_no_end(cls: type) -> None:
    schedule = kg.schedules.Warmup(kg.schedules.Constant(1.0), 2)
    model = network()
    kg.bind(model).compile(cls(learning_rate=schedule), loss="mse", jit_compile=JIT)
    history = model.fit(*regression_data(), batch_size=64, epochs=4, verbose=0).history["loss"]
    assert len(history) == 4
    assert history[-1] < history[0]


@every_search
def test_one_example_is_enough_for_a_finite_step(cls: type) -> None:
    """The curvature of so small a minibatch is singular."""
    x, y = regression_data()
    model = network()
    kg.bind(model).compile(cls(), loss="mse", jit_compile=JIT)
    history = model.fit(x[:1], y[:1], batch_size=1, epochs=3, verbose=0).history["loss"]
    assert np.all(np.isfinite(history))
    assert all(np.all(np.isfinite(v)) for v in values(model.trainable_variables))


@every_search
def test_clipping_and_weight_decay_are_refused(cls: type) -> None:
    with pytest.raises(ValueError, match="takes no weight_decay, received 0.1. Add a kernel_reg"):
        cls(weight_decay=0.1)
    with pytest.raises(ValueError, match="takes no clipnorm"):
        cls(clipnorm=1.0)
    with pytest.raises(ValueError, match="may be frozen"):
        cls(groups={"bias": {"learning_rate": 0.1}})


@every_search
def test_frozen_groups_stay(cls: type) -> None:
    x, y = regression_data()
    model = network()
    before = values(model.trainable_variables)
    kg.bind(model).compile(cls(groups={"bias": {"frozen": True}}), loss="mse", jit_compile=JIT)
    model.fit(x, y, batch_size=64, epochs=2, verbose=0)
    for v, a in zip(model.trainable_variables, before, strict=True):
        assert np.array_equal(values([v])[0], a) == ("bias" in v.path)


@pytest.mark.parametrize(
    ("name", "instead"),
    [("newton", "NewtonCG"), ("bfgs", "LBFGS"), ("levenberg_marquardt", "NewtonCG")],
)
def test_a_model_too_large_for_a_dense_matrix_is_refused(name: str, instead: str) -> None:
    model = keras.Sequential([keras.Input((100,)), keras.layers.Dense(100)])
    kg.bind(model).compile(registry.find(name)(), loss="mse", jit_compile=JIT)
    with pytest.raises(
        ValueError, match=f"10100 trainable parameters.*Take keras_gradopt.{instead}"
    ):
        model.fit(np.zeros((4, 100)), np.zeros((4, 100)), verbose=0)


def test_damping_follows_the_reduction_ratio_and_is_saved_with_the_optimizer() -> None:
    damping = kg.Damping(0.3, minimum=0.2, maximum=1.0, factor=2.0)
    ratios = [(0.9, 0.2), (0.5, 0.3), (0.1, 0.6), (-1.0, 0.6), (float("nan"), 0.6)]
    for ratio, expected in ratios:
        found = damping.adapted(ops.convert_to_tensor(0.3), ops.convert_to_tensor(ratio))
        assert float(found) == pytest.approx(expected)
    optimizer = kg.NewtonCG(damping=damping)
    again = kg.NewtonCG.from_config(optimizer.get_config())
    assert again.damping.get_config() == damping.get_config()
    with pytest.raises(ValueError, match="A damping that adapts starts at a number"):
        kg.Damping(kg.schedules.ExponentialDecay(1.0, 10, 0.5))
    with pytest.raises(ValueError, match="minimum must be below maximum"):
        kg.Damping(1.0, minimum=2.0, maximum=1.0)


def test_damping_may_follow_a_schedule() -> None:
    schedule = kg.schedules.ExponentialDecay(1.0, 1, 0.5)
    optimizer = kg.Newton(damping=kg.Damping(schedule, adapts=False))
    model = network()
    kg.bind(model).compile(optimizer, loss="mse", jit_compile=JIT)
    history = model.fit(*regression_data(), batch_size=64, epochs=3, verbose=0).history["loss"]
    assert history[-1] < history[0]
