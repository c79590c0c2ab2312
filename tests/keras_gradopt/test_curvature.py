"""Curvature against dense matrices in float64, and errors that cover the truth as often as said."""

from __future__ import annotations

import doctest
import importlib
import inspect as python_inspect
import json
import math
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from keras import ops

import keras_gradopt as kg
from keras_gradopt import curvature, objective
from keras_gradopt.curvature.conditioning import bounded
from keras_gradopt.curvature.data_landscape import DataLandscape
from keras_gradopt.curvature.noise import noise_scale
from keras_gradopt.curvature.stability import stability_limit
from tests.keras_gradopt import curved
from tests.keras_gradopt.problems import network, regression_data, values
from tests.keras_gradopt.test_docstrings import Rounded, namespace

# Float32 products of order one, sums of some 20 rows.
CLOSE: dict[str, float] = {"rtol": 1e-4, "atol": 2e-5}
BACKEND = keras.backend.backend()


@pytest.fixture(scope="module")
def hessian() -> np.ndarray:
    return curved.hessian()


@pytest.fixture(scope="module")
def landscape() -> DataLandscape:
    """20 rows in minibatches of 7, 7 and 6."""
    return DataLandscape(curved.compiled(), *curved.data(), batch_size=7)


class Quadratic(DataLandscape):
    """A landscape with a matrix of its own in place of a model's."""

    def __init__(self, matrix: np.ndarray) -> None:
        self._matrix = matrix
        self.size, self.dtype, self.curvature = len(matrix), "float64", "hessian"
        self.evaluations, self.position = 0.0, np.zeros(len(matrix))
        self._precision = 1e-14

    def product(self, v: np.ndarray) -> np.ndarray:
        return self._matrix * v if self._matrix.ndim == 1 else self._matrix @ v


# --- the loss and its derivatives ---


def test_loss_gradient_and_products_are_those_of_all_rows(
    landscape: DataLandscape, hessian: np.ndarray
) -> None:
    w = curved.weights()
    np.testing.assert_allclose(landscape.position, w)
    assert landscape.value() == pytest.approx(curved.loss(w), rel=1e-5)
    np.testing.assert_allclose(landscape.gradient(), curved.gradient(w), **CLOSE)
    dense = np.stack([landscape.product(e) for e in np.eye(landscape.size)])
    np.testing.assert_allclose(dense, hessian, **CLOSE)
    elsewhere = w + 0.3
    assert landscape.value(elsewhere) == pytest.approx(curved.loss(elsewhere), rel=1e-5)
    np.testing.assert_allclose(landscape.gradient(elsewhere), curved.gradient(elsewhere), **CLOSE)


@pytest.mark.parametrize("name", ["hvp", "ggnvp", "fvp"])
def test_products_with_each_matrix(name: str, hessian: np.ndarray) -> None:
    """Of a Gaussian likelihood the Fisher information is the Gauss-Newton matrix."""
    matrix = hessian if name == "hvp" else curved.gauss_newton(curved.weights())
    v = np.random.default_rng(1).normal(size=curved.SIZE)
    kinds = {"hvp": "hessian", "ggnvp": "gauss_newton", "fvp": "fisher"}
    product, options = getattr(curvature, name), {"curvature": kinds[name], "batch_size": 10}
    seen = DataLandscape(curved.compiled(), *curved.data(), **options)
    np.testing.assert_allclose(product(seen, v=v), matrix @ v, **CLOSE)
    arrays = product(seen, v=curved.cut(v))
    for found, expected in zip(arrays, curved.cut(matrix @ v), strict=True):
        np.testing.assert_allclose(found, expected, **CLOSE)


@pytest.mark.parametrize("variables", ["low", ["low/kernel", "low/bias"]])
def test_variables_restrict_to_a_block_of_the_matrix(variables: Any, hessian: np.ndarray) -> None:
    some = DataLandscape(curved.compiled(), *curved.data(), variables=variables)
    assert [v.path.split("/")[-1] for v in some.variables] == ["kernel", "bias"]
    dense = np.stack([some.product(e) for e in np.eye(some.size)])
    np.testing.assert_allclose(dense, hessian[: some.size, : some.size], **CLOSE)


@pytest.mark.parametrize("training", [False, True])
def test_the_loss_is_that_of_evaluate_or_that_of_training(training: bool) -> None:
    x, y = regression_data(64)
    model = network(dropout=0.4, batch_norm=True)
    model.compile(optimizer="sgd", loss="mse")
    weights = np.linspace(0.5, 2.0, 64).astype("float32")
    for v in model.non_trainable_variables[:2]:  # moving statistics
        v.assign(np.linspace(0.2, 1.2, 8))
    seen = DataLandscape(model, x, y, sample_weight=weights, batch_size=32, training=training)
    before = values(model.variables)
    assert seen.value() == seen.value()
    evaluated = model.evaluate(x, y, sample_weight=weights, batch_size=32, verbose=0)
    assert (seen.value() == pytest.approx(evaluated, rel=1e-5)) is not training
    u, v = np.random.default_rng(0).normal(size=(2, seen.size))
    product = seen.product(v)
    np.testing.assert_allclose(seen.product(v), product, rtol=1e-6)
    assert u @ product == pytest.approx(v @ seen.product(u), rel=1e-3, abs=1e-3)
    # Differences of gradients: the same masks at each point. Their error is of second order.
    eps, here = 1e-2, seen.position
    slope = (seen.gradient(here + eps * v) - seen.gradient(here - eps * v)) / (2 * eps)
    assert np.linalg.norm(slope - product) < 0.02 * np.linalg.norm(product)
    for a, b in zip(values(model.variables), before, strict=True):
        np.testing.assert_array_equal(a, b)


def test_dropout_of_the_process_generator_is_held_still() -> None:
    model = keras.Sequential(
        [keras.Input((5,)), keras.layers.Dense(8), keras.layers.Dropout(0.5), keras.layers.Dense(1)]
    )
    model.compile(optimizer="sgd", loss="mse")
    seen = DataLandscape(model, *regression_data(32), training=True)
    first = seen.value()
    keras.random.normal((10,))
    assert seen.value() == first


def test_regularisers_and_several_inputs_and_outputs_enter() -> None:
    x, y = regression_data(16)
    inputs = {"p": keras.Input((5,), name="p"), "q": keras.Input((5,), name="q")}
    hidden = keras.layers.Dense(2, kernel_regularizer=keras.regularizers.L2(0.3))
    outputs = [
        keras.layers.Dense(1, name=n)(hidden(inputs["p"]) + inputs["q"][:, :2]) for n in "ab"
    ]
    model = keras.Model(inputs, dict(zip("ab", outputs, strict=True)))
    model.compile(optimizer="sgd", loss={"a": "mse", "b": "mae"})
    given = ({"p": x, "q": x**2}, {"a": y, "b": -y})
    seen = DataLandscape(model, *given, batch_size=8)
    evaluated = model.evaluate(*given, batch_size=8, verbose=0, return_dict=True)
    assert seen.value() == pytest.approx(evaluated["loss"], rel=1e-5)


def test_a_dataset_is_read_once_and_averaged_by_rows(landscape: DataLandscape) -> None:
    x, y = curved.data()
    batches = ((x[i : i + 8], y[i : i + 8]) for i in (0, 8, 16))
    seen = DataLandscape(curved.compiled(), batches)
    assert seen.data.sizes == [8, 8, 4]
    assert seen.value() == pytest.approx(landscape.value(), rel=1e-6)
    np.testing.assert_allclose(seen.gradient(), landscape.gradient(), **CLOSE)


def test_a_product_is_compiled_once_for_each_shape(monkeypatch: pytest.MonkeyPatch) -> None:
    traced = []
    own = objective.Objective.hessian_at
    monkeypatch.setattr(
        objective.Objective, "hessian_at", lambda self, *a: traced.append(1) or own(self, *a)
    )
    seen = DataLandscape(curved.compiled(), *curved.data(), batch_size=8)
    for v in np.random.default_rng(0).normal(size=(4, seen.size)):
        seen.product(v)
    # Minibatches of 8, 8 and 4 rows; torch runs without compiling, two products to check it too.
    assert len(traced) == (6 * 3 if BACKEND == "torch" else 2)


def test_a_landscape_outlives_a_training_and_follows_when_told() -> None:
    x, y = curved.data()
    model = curved.compiled()
    seen = DataLandscape(model, x, y)
    before = seen.value()
    model.fit(x, y, epochs=3, verbose=0)
    assert seen.value() == before
    seen.refresh()
    assert seen.value() == pytest.approx(model.evaluate(x, y, verbose=0), rel=1e-5)
    assert seen.value() != before


# --- eigenpairs ---


@pytest.mark.parametrize("which", ["largest", "smallest", "both"])
@pytest.mark.parametrize("k", [1, 3])
def test_eigenpairs_are_those_of_the_dense_matrix(
    which: Any, k: int, landscape: DataLandscape, hessian: np.ndarray
) -> None:
    expected = np.linalg.eigvalsh(hessian)[::-1]
    ends = {"largest": expected[:k], "smallest": expected[-k:]}
    wanted = ends.get(which, np.concatenate([expected[:k], expected[-k:]]))
    pairs = curvature.top_eigenpairs(landscape, k=k, which=which, tolerance=1e-4)
    assert pairs.converged
    np.testing.assert_allclose(pairs.values, wanted, atol=1e-4 * expected[0])
    np.testing.assert_allclose(np.linalg.norm(pairs.vectors, axis=1), 1.0, rtol=1e-9)
    images = pairs.vectors @ hessian
    found = np.linalg.norm(images - pairs.values[:, None] * pairs.vectors, axis=1)
    np.testing.assert_allclose(found, pairs.residuals, atol=1e-4)


@pytest.mark.parametrize("products", [3, 5, 8, 12])
def test_an_eigenvalue_is_always_within_the_stated_error(
    products: int, landscape: DataLandscape, hessian: np.ndarray
) -> None:
    """Also where the search was cut short, and for every seed."""
    truth = np.linalg.eigvalsh(hessian)
    for seed in range(8):
        pairs = curvature.top_eigenpairs(landscape, which="both", max_products=products, seed=seed)
        apart = np.abs(pairs.values[:, None] - truth).min(axis=1)
        assert np.all(apart <= pairs.errors)
        assert pairs.products <= max(products, 3)


SPECTRA = {
    "bulk and outliers": np.concatenate([np.linspace(-1, 1, 297), [5.0, 6.0, 30.0]]),
    "crowded ends": np.linspace(0, 1, 300),
    "ill-conditioned": 10.0 ** np.linspace(-6, 3, 300),
    "low rank": np.concatenate([np.zeros(298), [-2.0, 3.0]]),
    "zero": np.zeros(300),
    "identity": np.ones(300),
}


@pytest.mark.parametrize("name", SPECTRA)
def test_known_spectra_come_out_within_their_errors(name: str) -> None:
    truth = np.sort(SPECTRA[name])
    for seed in range(3):
        pairs = curvature.top_eigenpairs(
            Quadratic(truth), k=2, which="both", seed=seed, max_products=400
        )
        assert pairs.converged
        expected = np.concatenate([truth[::-1][:2], truth[::-1][-2:]])
        # Converged to 1e-3 of the largest, and no other value lies between.
        assert np.all(np.abs(pairs.values - expected) <= 2e-3 * np.abs(truth).max() + 1e-12)
        apart = np.abs(pairs.values[:, None] - truth).min(axis=1)
        assert np.all(apart <= pairs.errors + 1e-12)


def test_scipy_agrees_through_the_linear_operator(landscape: DataLandscape) -> None:
    from scipy.sparse.linalg import eigsh

    expected = eigsh(landscape.linear_operator(), k=2, which="LA", tol=1e-5)[0][::-1]
    pairs = curvature.top_eigenpairs(landscape, k=2, tolerance=1e-4)
    np.testing.assert_allclose(pairs.values, expected, rtol=1e-4)


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_errors_cover_what_half_precision_loses(policy: str, hessian: np.ndarray) -> None:
    keras.config.set_dtype_policy(policy)
    model = curved.compiled()
    keras.config.set_dtype_policy("float32")
    pairs = curvature.top_eigenpairs(model, *curved.data(), which="both", max_products=40)
    truth = np.linalg.eigvalsh(hessian)
    assert np.all(np.abs(pairs.values[:, None] - truth).min(axis=1) <= pairs.errors)
    assert np.all(pairs.errors < 0.05 * truth[-1])


def test_gauss_newton_s_eigenvalues(landscape: DataLandscape) -> None:
    del landscape
    pairs = curvature.top_eigenpairs(
        curved.compiled(), *curved.data(), which="both", curvature="gauss_newton"
    )
    truth = np.linalg.eigvalsh(curved.gauss_newton(curved.weights()))
    assert pairs.values[0] == pytest.approx(truth[-1], rel=1e-4)
    assert abs(pairs.values[-1] - truth[0]) <= pairs.errors[-1]


# --- traces and diagonals: errors cover the truth ---

REPETITIONS = 200


@pytest.mark.parametrize("method", ["hutchinson", "hutch++"])
def test_two_standard_errors_cover_the_trace(method: Any, hessian: np.ndarray) -> None:
    quadratic, truth = Quadratic(hessian), np.trace(hessian)
    probes = 20 if method == "hutchinson" else 3 * curved.SIZE
    found = [
        curvature.trace(quadratic, probes=probes, method=method, seed=s) for s in range(REPETITIONS)
    ]
    if method == "hutch++":  # all 21 directions are in its basis: exact but for float64
        assert all(abs(e.value - truth) < 1e-9 * abs(truth) for e in found)
        found = [curvature.trace(quadratic, probes=30, method=method, seed=s) for s in range(200)]
    covered = np.mean([abs(e.value - truth) <= 2 * e.standard_error for e in found])
    assert covered >= 0.9
    # Without bias: the mean of all within three of its own errors.
    values = [e.value for e in found]
    assert abs(np.mean(values) - truth) <= 3 * np.std(values) / np.sqrt(REPETITIONS)


def test_hutchinson_has_the_variance_of_its_theorem(hessian: np.ndarray) -> None:
    probes = 20
    found = [
        curvature.trace(Quadratic(hessian), probes=probes, seed=s).value for s in range(REPETITIONS)
    ]
    off = hessian - np.diag(np.diag(hessian))
    # A variance of 200 draws is within 30 % of the truth but for 3 standard deviations.
    assert np.var(found) == pytest.approx(2 * np.sum(off**2) / probes, rel=0.3)


def test_two_standard_errors_cover_the_diagonal(hessian: np.ndarray) -> None:
    truth = np.diag(hessian)
    found = [curvature.diagonal(Quadratic(hessian), probes=20, seed=s) for s in range(REPETITIONS)]
    covered = [np.abs(e.value - truth) <= 2 * e.standard_error + 1e-12 for e in found]
    assert np.mean(covered) >= 0.9
    assert np.min(np.mean(covered, axis=0)) >= 0.85  # each entry, up to sampling
    mean = np.mean([e.value for e in found], axis=0)
    spread = np.std([e.value for e in found], axis=0) / np.sqrt(REPETITIONS)
    assert np.all(np.abs(mean - truth) <= 4 * spread + 1e-12)


def test_estimates_of_a_model_are_near_its_matrix(
    landscape: DataLandscape, hessian: np.ndarray
) -> None:
    total = curvature.trace(landscape, probes=30)
    assert abs(total.value - np.trace(hessian)) <= 3 * total.standard_error
    diagonal = curvature.diagonal(landscape, probes=30)
    near = np.abs(diagonal.value - np.diag(hessian)) <= 3 * diagonal.standard_error + 1e-4
    assert np.mean(near) >= 0.9
    assert curvature.trace(landscape, probes=30) == total


# --- the density ---


def test_the_density_integrates_to_one_and_has_the_matrix_s_moments(hessian: np.ndarray) -> None:
    density = curvature.spectral_density(Quadratic(hessian), probes=40, steps=12, seed=3)
    assert np.trapezoid(density.density, density.grid) == pytest.approx(1.0, abs=1e-3)
    for order in (1, 2, 3):
        truth = np.trace(np.linalg.matrix_power(hessian, order)) / len(hessian)
        moment = density.moment(order)
        assert abs(moment.value - truth) <= 3 * moment.standard_error
    assert density.moment(0).value == pytest.approx(1.0)


def test_gauss_quadrature_is_exact_for_its_probes(hessian: np.ndarray) -> None:
    """Moments up to 2 steps - 1 are those of the probes themselves."""
    steps, probes = 4, 5
    density = curvature.spectral_density(Quadratic(hessian), probes=probes, steps=steps, seed=1)
    rng, n = np.random.default_rng(1), len(hessian)
    drawn = [2.0 * rng.integers(0, 2, n) - 1.0 for _ in range(probes)]
    for order in range(2 * steps):
        power = np.linalg.matrix_power(hessian, order)
        expected = np.mean([z @ power @ z / n for z in drawn])
        assert density.moment(order).value == pytest.approx(expected, rel=1e-8)


@pytest.mark.parametrize("name", SPECTRA)
def test_the_density_of_known_spectra(name: str, tmp_path: Path) -> None:
    truth = SPECTRA[name]
    density = curvature.spectral_density(Quadratic(truth), probes=6, steps=25)
    assert np.trapezoid(density.density, density.grid) == pytest.approx(1.0, abs=1e-3)
    middle = (truth.min() + truth.max()) / 2
    below = density.share(-np.inf, middle)
    if name in {"crowded ends", "bulk and outliers"}:
        # The quadrature resolves a step in the distribution to about 1 / steps.
        assert below.value == pytest.approx(np.mean(truth <= middle), abs=0.05)
    density.plot(tmp_path / "density.html")
    assert "Eigenvalues of the curvature" in (tmp_path / "density.html").read_text("utf-8")


# --- conditioning ---


def test_the_condition_number_of_a_model(landscape: DataLandscape, hessian: np.ndarray) -> None:
    for damping in (0.0, 20.0):
        sizes = np.abs(np.linalg.eigvalsh(hessian) + damping)
        exact = curvature.condition_number(landscape, damping=damping)
        assert exact.is_exact
        assert exact.low <= sizes.max() / sizes.min() <= exact.high
        cut_short = curvature.condition_number(landscape, damping=damping, dense_up_to=0)
        assert cut_short.low <= sizes.max() / sizes.min() <= cut_short.high
    assert cut_short.value == pytest.approx(sizes.max() / sizes.min(), rel=1e-3)


@pytest.mark.parametrize("name", SPECTRA)
def test_bounds_of_the_condition_number_hold_for_known_spectra(name: str) -> None:
    truth = np.abs(SPECTRA[name])
    expected = truth.max() / truth.min() if truth.min() else math.inf
    for seed in range(3):
        found = curvature.condition_number(Quadratic(SPECTRA[name]), seed=seed)
        assert found.low <= max(expected, 1.0) * (1 + 1e-9)
        assert found.high >= expected * (1 - 1e-9) or name == "zero"
        assert found.low <= found.value <= found.high


def test_an_indefinite_matrix_has_a_lower_bound_only() -> None:
    found = bounded(np.array([-1.0, 0.1, 4.0]), np.array([0.1, 0.02, 0.3]))
    assert found.low == pytest.approx((4 - 0.3) / 0.12)
    assert (found.value, found.high) == (found.low, math.inf)
    assert "at least" in str(found)


# --- the noise scale ---


def drawn(rng: np.random.Generator, rows: int, size: int = 12) -> np.ndarray:
    """Gradients of rows: mean of norm 1, covariance of trace 24."""
    return 1 / np.sqrt(size) + rng.normal(size=(rows, size)) * np.sqrt(2.0)


def grouped(rows: np.ndarray, sizes: list[int]) -> list[np.ndarray]:
    return [part.mean(axis=0) for part in np.split(rows, np.cumsum(sizes)[:-1])]


@pytest.mark.parametrize("sizes", [[16] * 32, [17] * 30 + [2]])
def test_two_standard_errors_cover_the_noise_scale(sizes: list[int]) -> None:
    covered = []
    for seed in range(REPETITIONS):
        parts = grouped(drawn(np.random.default_rng(seed), sum(sizes)), sizes)
        found = noise_scale(lambda parts=parts: parts, sizes)
        pairs = ((found, 24.0), (found.variance, 24.0), (found.signal, 1.0))
        covered.append([abs(e.value - t) <= 2 * e.standard_error for e, t in pairs])
    assert np.all(np.mean(covered, axis=0) >= 0.9)


def test_the_noise_scale_is_the_paper_s_estimate() -> None:
    """Appendix A.1 with a small batch of 8 rows, averaged over all of them, and a big one of 64."""
    parts = grouped(drawn(np.random.default_rng(0), 64), [8] * 8)
    small = np.mean([g @ g for g in parts])
    big = np.square(np.mean(parts, axis=0)).sum()
    signal = (64 * big - 8 * small) / (64 - 8)
    variance = (small - big) / (1 / 8 - 1 / 64)
    found = noise_scale(lambda: parts, [8] * 8)
    assert found.signal.value == pytest.approx(signal)
    assert found.variance.value == pytest.approx(variance)
    assert found.value == pytest.approx(variance / signal)


def test_the_noise_scale_of_a_model_is_that_of_its_rows() -> None:
    rows = curved.row_gradients(curved.weights())
    mean = rows.mean(axis=0)
    variance = np.sum((rows - mean) ** 2) / (len(rows) - 1)
    signal = mean @ mean - variance / len(rows)
    found = curvature.gradient_noise_scale(curved.compiled(), *curved.data(), batch_size=1)
    assert found.value == pytest.approx(variance / signal, rel=1e-4)
    assert curvature.gradient_noise_scale(curved.compiled(), *curved.data()).groups == len(rows)


def test_a_gradient_within_its_noise_has_a_lower_bound() -> None:
    rng = np.random.default_rng(4)
    parts = list(rng.normal(size=(16, 50)))
    found = noise_scale(lambda: parts, [4] * 16)
    assert not found.is_known
    assert "at least" in str(found) or "infinite" in str(found)


# --- the surface ---


@pytest.mark.parametrize("directions", ["hessian", "random", "path"])
def test_the_surface_is_what_evaluate_measures_at_its_points(
    directions: Any, tmp_path: Path
) -> None:
    x, y = curved.data()
    model = curved.compiled()
    rng = np.random.default_rng(5)
    path = [curved.weights() + t * rng.normal(size=curved.SIZE) for t in (1.0, 0.5, 0.2, 0.0)]
    plane = curvature.surface(
        model, x, y, path=[curved.cut(p) for p in path], directions=directions, points=3
    )
    for i, a in enumerate(plane.a):
        for j, b in enumerate(plane.b):
            curved.put(model, plane.weights(a, b))
            evaluated = model.evaluate(x, y, verbose=0)
            assert plane.losses[i, j] == pytest.approx(evaluated, rel=1e-5)
    np.testing.assert_allclose(plane.path_losses, [curved.loss(p) for p in path], rtol=1e-5)
    # What the plane leaves of the path stands perpendicular on it.
    left = np.stack(path) - plane.centre - plane.path @ plane.directions
    assert np.abs(left @ plane.directions.T).max() < 1e-6 * np.abs(plane.directions).max() ** 2
    for solid in (False, True):
        plane.plot(tmp_path / "surface.html", solid=solid)
        assert "Loss around the weights" in (tmp_path / "surface.html").read_text("utf-8")


def test_hessian_directions_are_its_top_eigenvectors(
    landscape: DataLandscape, hessian: np.ndarray
) -> None:
    plane = curvature.surface(landscape, points=3)
    vectors = np.linalg.eigh(hessian)[1][:, ::-1].T[:2]
    np.testing.assert_allclose(np.abs(plane.directions @ vectors.T), np.eye(2), atol=0.02)


def test_random_directions_have_the_norm_of_each_filter(landscape: DataLandscape) -> None:
    plane = curvature.surface(landscape, directions="random", points=3, span=0.5)
    kernel, bias, out, _ = landscape.arrays(landscape.position)
    for direction in plane.directions:
        d_kernel, d_bias, d_out, _ = landscape.arrays(direction)
        expected = np.linalg.norm(kernel, axis=0)
        np.testing.assert_allclose(np.linalg.norm(d_kernel, axis=0), expected)
        np.testing.assert_allclose(np.linalg.norm(d_out, axis=0), np.linalg.norm(out, axis=0))
        assert not np.any(d_bias)
    assert bias.any()
    assert (plane.a[-1], plane.b[0]) == (0.5, -0.5)


def test_a_path_in_a_plane_is_seen_whole(landscape: DataLandscape) -> None:
    rng = np.random.default_rng(0)
    u, v = np.linalg.qr(rng.normal(size=(curved.SIZE, 2)))[0].T
    circle = [
        landscape.position + np.cos(t) * u + 0.5 * np.sin(t) * v for t in np.linspace(0, 6, 9)
    ]
    plane = curvature.surface(landscape, path=circle, directions="path", points=3)
    assert plane.path_share == pytest.approx(1.0, abs=1e-9)
    back = [plane.weights(*ab) for ab in plane.path]
    np.testing.assert_allclose(back, circle, atol=1e-9)


# --- the verdict ---


def test_a_saddle_is_called_one_and_its_direction_leads_down() -> None:
    """Two linear layers at 0: no gradient, and eigenvalues +-|2 E[x y]|."""
    x, y = regression_data(64)
    layers = [keras.layers.Dense(n, use_bias=False, kernel_initializer="zeros") for n in (3, 1)]
    model = keras.Sequential([keras.Input((5,)), *layers])
    model.compile(optimizer="sgd", loss="mse")
    found = curvature.inspect(model, x, y, spectrum=False)
    assert found.kind == "saddle"
    expected = -np.linalg.norm(2 * x.T.astype("float64") @ y / len(x))
    assert found.eigenpairs.values[-1] == pytest.approx(expected, rel=1e-4)
    assert f"lambda_min = {expected:.2g} ±" in found.verdict
    before = model.evaluate(x, y, verbose=0)
    seen = DataLandscape(model, x, y)
    moved = seen.position + found.escape.step * found.escape.direction
    for v, value in zip(model.trainable_variables, seen.arrays(moved), strict=True):
        v.assign(value)
    after = model.evaluate(x, y, verbose=0)
    assert before - after == pytest.approx(found.escape.decrease, rel=1e-4)
    assert found.escape.share > 0.1


def test_a_near_saddle_with_a_gradient_is_one_still() -> None:
    x, y = regression_data(64)
    layers = [keras.layers.Dense(n, use_bias=False) for n in (3, 1)]
    model = keras.Sequential([keras.Input((5,)), *layers])
    model.compile(optimizer="sgd", loss="mse")
    rng = np.random.default_rng(0)
    for v in model.trainable_variables:
        v.assign(1e-3 * rng.normal(size=v.shape))
    assert curvature.inspect(model, x, y, spectrum=False).kind == "saddle"


def test_converged_least_squares_is_a_minimum() -> None:
    x, y = regression_data(64)
    solution = np.linalg.lstsq(np.c_[x, np.ones(64)].astype("float64"), y, rcond=None)[0]
    model = keras.Sequential([keras.Input((5,)), keras.layers.Dense(1)])
    model.set_weights([solution[:5], solution[5]])
    model.compile(optimizer=keras.optimizers.SGD(0.9, momentum=0.5), loss="mse")
    found = curvature.inspect(model, x, y, spectrum=False)
    assert found.kind == "minimum"
    assert "is positive" in found.verdict
    assert found.escape is None
    design = np.c_[x, np.ones(64)].astype("float64")
    truth = np.linalg.eigvalsh(2 * design.T @ design / 64)
    assert found.condition.value == pytest.approx(truth[-1] / truth[0], rel=1e-4)
    assert found.stability.limit == 3.0
    assert found.stability.product == pytest.approx(0.9 * truth[-1], rel=1e-4)
    assert found.stability.is_unstable == (0.9 * truth[-1] > 3.0)


def test_noisy_least_squares_is_a_minimum_however_high_its_loss() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(200, 3)).astype("float32")
    y = (30 * rng.normal(size=(200, 1))).astype("float32")
    solution = np.linalg.lstsq(x.astype("float64"), y, rcond=None)[0]
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1, use_bias=False)])
    model.set_weights([solution])
    model.compile(optimizer="sgd", loss="mse")
    assert curvature.inspect(model, x, y, spectrum=False).kind == "minimum"


def test_saturated_units_are_a_plateau() -> None:
    x, y = regression_data(64)
    model = network()
    *_, out, bias = model.get_weights()
    low = [np.full((5, 8), 3.0), np.full(8, 30.0)]
    model.add(keras.layers.Activation("sigmoid"))
    model.set_weights([*low, np.full(out.shape, 2.0), bias])
    model.compile(optimizer="sgd", loss="mse")
    found = curvature.inspect(model, x, (y > 0).astype("float32"), spectrum=False)
    assert found.kind == "plateau"
    assert model.evaluate(x, (y > 0).astype("float32"), verbose=0) > 0.3


def test_an_untrained_network_is_still_descending_and_everything_is_reported(
    tmp_path: Path,
) -> None:
    model = curved.compiled(optimizer="adam")
    found = curvature.inspect(model, *curved.data())
    assert found.kind == "still descending"
    assert found.stability.limit is None
    text = str(found)
    for line in ("largest eigenvalue", "trace", "condition number", "noise scale", "negative"):
        assert line in text
    read = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert read["kind"] == "still descending"
    assert read["weights"] == curved.SIZE
    assert len(read["eigenpairs"]["errors"]) == 2
    found.plot(tmp_path / "inspection.html")
    assert "negative curvature" in (tmp_path / "inspection.html").read_text("utf-8")
    again = curvature.inspect(model, *curved.data())
    assert str(again) == text


def test_ill_conditioning_is_named_and_second_order_suggested() -> None:
    rng = np.random.default_rng(0)
    x = (rng.normal(size=(64, 4)) * [30.0, 1.0, 1.0, 1.0]).astype("float32")
    y = (x @ [[0.0], [1.0], [-1.0], [1.0]]).astype("float32")
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1, use_bias=False)])
    model.set_weights([np.zeros((4, 1))])
    model.compile(optimizer=keras.optimizers.SGD(0.01), loss="mse")
    found = curvature.inspect(model, x, y, spectrum=False)
    assert found.kind == "still descending"
    assert found.condition.value > 300
    assert "second-order optimizer" in found.suggestion
    assert "stable below" in found.suggestion  # 0.01 is above 2 / 1800


def test_a_piecewise_linear_loss_is_said_to_be_one() -> None:
    model = keras.Sequential([keras.Input((5,)), keras.layers.Dense(1)])
    model.compile(optimizer="sgd", loss="mae")
    found = curvature.inspect(model, *regression_data(64), spectrum=False)
    assert found.eigenpairs.values.tolist() == [0.0, 0.0]
    assert "linear in the weights" in found.suggestion


@pytest.mark.parametrize("nesterov", [False, True])
@pytest.mark.parametrize("momentum", [0.0, 0.5, 0.9])
def test_the_limit_of_stability_is_where_a_parabola_diverges(
    nesterov: bool, momentum: float
) -> None:
    rules = [
        cls(1.0, momentum=momentum, nesterov=nesterov) for cls in (keras.optimizers.SGD, kg.SGD)
    ]
    if nesterov and momentum:
        rules.append(kg.NAG(1.0, momentum=momentum))
    for rule in rules:
        limit = stability_limit(rule)
        for factor, diverges in ((0.98, False), (1.02, True)):
            w, u = 1.0, 0.0
            for _ in range(2000):
                at = w + momentum * u if nesterov else w
                u = momentum * u - factor * limit * at
                w += u
            assert (abs(w) > 1.0) is diverges
    assert stability_limit(keras.optimizers.Adam()) is None


# --- errors ---


def test_a_model_without_a_loss_is_refused() -> None:
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)])
    with pytest.raises(ValueError, match="call model.compile"):
        curvature.trace(model, *curved.data())
    unbuilt = keras.Sequential([keras.layers.Dense(1)])
    unbuilt.compile(optimizer="sgd", loss="mse")
    with pytest.raises(ValueError, match="keras.Input"):
        curvature.trace(unbuilt, *curved.data())
    with pytest.raises(ValueError, match="received str"):
        curvature.trace("model", *curved.data())


def test_data_that_does_not_fit_is_refused() -> None:
    x, y = curved.data()
    model = curved.compiled()
    with pytest.raises(ValueError, match="x has 20, y has 19"):
        curvature.inspect(model, x, y[:19])
    with pytest.raises(ValueError, match="no rows"):
        DataLandscape(model, x[:0], y[:0])
    with pytest.raises(ValueError, match="received float"):
        DataLandscape(model, 1.0, y)
    with pytest.raises(ValueError, match="leave out y"):
        DataLandscape(model, [(x, y)].__iter__(), y)
    with pytest.raises(ValueError, match="batch_size must be a whole number"):
        DataLandscape(model, x, y, batch_size=0)
    with pytest.raises(ValueError, match="at least 3, but 2 rows"):
        curvature.gradient_noise_scale(model, x[:2], y[:2], batch_size=1)


def test_variables_that_fit_none_are_refused_with_those_there_are() -> None:
    with pytest.raises(ValueError, match=r"fits none.*low/kernel"):
        DataLandscape(curved.compiled(), *curved.data(), variables="middle")


def test_arguments_out_of_their_ranges_are_refused(landscape: DataLandscape) -> None:
    for call, message in (
        (lambda: curvature.top_eigenpairs(landscape, k=0), "k must be"),
        (lambda: curvature.top_eigenpairs(landscape, which="top"), "which must be one of"),
        (lambda: curvature.top_eigenpairs(landscape, tolerance=0), "tolerance must be above 0"),
        (lambda: curvature.trace(landscape, probes=1), "probes must be"),
        (lambda: curvature.trace(landscape, method="xtrace"), "method must be"),
        (lambda: curvature.diagonal(landscape, probes=1), "probes must be"),
        (lambda: curvature.spectral_density(landscape, width=0.0), "width must be"),
        (lambda: curvature.condition_number(landscape, damping=-1), "damping must be"),
        (lambda: curvature.surface(landscape, points=4), "points must be odd"),
        (lambda: curvature.surface(landscape, directions="up"), "directions must be"),
        (lambda: curvature.surface(landscape, directions="path"), "path must|give path"),
        (lambda: curvature.surface(landscape, span=0.0), "span must be"),
        (lambda: curvature.surface(landscape, path=[[np.ones(3)]]), "Each point of path"),
        (lambda: curvature.hvp(landscape, v=np.ones(4)), "as many entries as the weights, 21"),
        (lambda: curvature.ggnvp(landscape, v=np.ones(21)), "curvature='hessian'"),
        (lambda: curvature.trace(landscape, curved.data()[0]), "leave out x"),
        (
            lambda: DataLandscape(landscape.model, *curved.data(), curvature="k"),
            "curvature must be",
        ),
    ):
        with pytest.raises(ValueError, match=message):
            call()


def test_a_loss_that_is_no_number_says_where_to_look() -> None:
    x, y = curved.data()
    model = curved.compiled()
    broken = x.copy()
    broken[3, 1] = np.nan
    with pytest.raises(ValueError, match="nan at its present weights.*NaN in the data"):
        curvature.inspect(model, broken, y)
    model.layers[0].kernel.assign(np.full((3, 4), np.nan))
    with pytest.raises(ValueError, match=r"\['.*low/kernel'\] hold NaN"):
        curvature.inspect(model, x, y)


def test_an_infinite_derivative_of_a_finite_loss_is_said() -> None:
    x, y = curved.data()
    inputs = keras.Input((3,))
    hidden = keras.layers.Dense(2, kernel_initializer="zeros", name="low")(inputs)
    model = keras.Model(inputs, keras.layers.Lambda(lambda h: ops.sqrt(ops.sum(h * h, 1)))(hidden))
    model.compile(optimizer="sgd", loss="mse")
    assert np.isfinite(DataLandscape(model, x, y[:, 0]).value())
    with pytest.raises(ValueError, match=r"is finite, but its product.*low/kernel.*epsilon"):
        curvature.trace(model, x, y[:, 0])


def without_second_derivative(x: Any) -> Any:
    """Twice x, by an operation whose derivative this backend cannot differentiate."""
    if BACKEND == "jax":
        import jax

        @jax.custom_vjp
        def twice(x: Any) -> Any:
            return 2 * x

        def back(x: Any, g: Any) -> tuple:
            double = jax.pure_callback(lambda g: 2 * np.asarray(g), g, g)
            return (double + 0 * x,)

        twice.defvjp(lambda x: (2 * x, x), back)
        return twice(x)
    if BACKEND == "torch":
        import torch

        class Twice(torch.autograd.Function):
            @staticmethod
            def forward(_: Any, x: Any) -> Any:
                return 2 * x

            @staticmethod
            @torch.autograd.function.once_differentiable
            def backward(_: Any, g: Any) -> Any:
                return 2 * g

        return Twice.apply(x)
    import tensorflow as tf

    @tf.custom_gradient
    def twice(x: Any) -> tuple:
        def back(g: Any) -> Any:
            double = tf.numpy_function(lambda g: 2 * g, [g], g.dtype)
            return tf.ensure_shape(double, x.shape)

        return 2 * x, back

    return twice(x)


def test_a_layer_without_second_derivative_is_named() -> None:
    class Twice(keras.layers.Layer):
        def call(self, x: Any) -> Any:
            return without_second_derivative(x)

    x, y = curved.data()
    layers = [keras.layers.Dense(4, "tanh"), Twice(name="culprit"), keras.layers.Dense(1)]
    model = keras.Sequential([keras.Input((3,)), keras.Sequential(layers)])
    model.compile(optimizer="sgd", loss="mse")
    assert np.any(DataLandscape(model, x, y).gradient())
    with pytest.raises(ValueError, match=r"cannot be differentiated twice.*culprit' \(Twice\)"):
        curvature.inspect(model, x, y)
    # What stands after it can be looked at still.
    last = DataLandscape(model, x, y, variables=model.trainable_variables[-2:])
    assert np.any(last.product(np.ones(last.size)))
    # Where it stands last, TensorFlow and torch give a Hessian of 0.
    ending = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1), Twice(name="ending")])
    ending.compile(optimizer="sgd", loss="mse")
    with pytest.raises(ValueError, match=r"ending' \(Twice\) has no second derivative"):
        curvature.hvp(ending, x, y, v=np.ones(4))
    # The search put nothing of its own into the layers.
    assert not any("call" in vars(layer) for layer in layers)


def test_a_gradient_of_no_function_is_refused() -> None:
    """A custom gradient whose own derivative is not symmetric."""
    x, y = curved.data()

    @ops.custom_gradient
    def crossed(h: Any) -> tuple:
        return (
            h,
            lambda *a, upstream=None: (
                (a[0] if upstream is None else upstream) * ops.sin(3 * ops.roll(h, 1, axis=1))
            ),
        )

    class Crossed(keras.layers.Layer):
        def call(self, h: Any) -> Any:
            return crossed(h)

    layers = [keras.layers.Dense(4), Crossed(), keras.layers.Dense(1)]
    model = keras.Sequential([keras.Input((3,)), *layers])
    model.compile(optimizer="sgd", loss="mse")
    with pytest.raises(ValueError, match="custom gradient"):
        curvature.trace(model, x, y)


# --- documentation ---

DOCUMENTED = ["DataLandscape", *(n for n in sorted(curvature._MODULES) if n[0].islower())]


@pytest.mark.parametrize("name", DOCUMENTED)
def test_the_example_is_true(name: str) -> None:
    text = python_inspect.cleandoc(getattr(curvature, name).__doc__)
    names = {**namespace(), "np": np}
    test = doctest.DocTestParser().get_doctest(text, names, name, None, None)
    assert test.examples
    said: list[str] = []
    runner = doctest.DocTestRunner(checker=Rounded(), verbose=False)
    assert runner.run(test, out=said.append).failed == 0, "".join(said)


@pytest.mark.parametrize("name", DOCUMENTED)
def test_every_argument_is_documented(name: str) -> None:
    thing = getattr(curvature, name)
    text = python_inspect.cleandoc(thing.__doc__)
    for argument in python_inspect.signature(thing).parameters:
        assert f"    {argument}: " in text.replace("**", "")


def test_public_names_are_where_they_are_said_to_be() -> None:
    assert set(curvature._MODULES) <= set(dir(kg.curvature))
    for name, module in curvature._MODULES.items():
        home = importlib.import_module(f"keras_gradopt.curvature.{module}")
        assert getattr(kg.curvature, name) is getattr(home, name)
    with pytest.raises(AttributeError, match="no attribute 'hessians'"):
        _ = kg.curvature.hessians


def test_progress_is_shown_where_asked_for(capsys: Any, landscape: DataLandscape) -> None:
    curvature.trace(landscape, probes=3)
    assert not capsys.readouterr().out
    curvature.trace(landscape, probes=3, progress=True)
    assert "3/3" in capsys.readouterr().out
