"""HypergradientDescent: the paper's algorithms in NumPy, and what the rate does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from keras import ops

import keras_gradopt as kg
from tests.keras_gradopt.peers.hypergradient import ALGORITHMS, reference
from tests.keras_gradopt.problems import (
    assert_close,
    gradients,
    network,
    regression_data,
    start_weights,
    train,
    values,
)

JIT = keras.backend.backend() == "jax"
STEPS = 25
both = pytest.mark.parametrize("multiplicative", [False, True], ids=["additive", "multiplicative"])


@both
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_it_is_the_papers_algorithm(algorithm: str, multiplicative: bool) -> None:
    direction, inner, alpha, beta = ALGORITHMS[algorithm]
    beta = 0.05 if multiplicative else beta
    path, rates = reference(direction, alpha, beta, multiplicative=multiplicative, steps=STEPS)
    assert max(rates) > 1.2 * min(rates)
    optimizer = kg.HypergradientDescent(inner(alpha), beta, multiplicative)
    assert_close(train(optimizer, STEPS), path, 1e-5)
    np.testing.assert_allclose(rate_of(optimizer), rates[-1], rtol=1e-4)


def rate_of(optimizer: Any) -> float:
    return float(ops.convert_to_numpy(ops.convert_to_tensor(optimizer.learning_rate)))


@pytest.mark.parametrize("inner", [kg.SGD, keras.optimizers.SGD, kg.Adam, keras.optimizers.Adam])
def test_without_a_rate_of_its_own_it_is_the_inner_optimizer(inner: Any) -> None:
    assert_close(train(kg.HypergradientDescent(inner(0.03), 0.0), 6), train(inner(0.03), 6), 1e-6)


def distance(path: list) -> float:
    """How far the first variable ends from where its gradient without noise vanishes."""
    w = path[-1][0]
    return float(np.linalg.norm(w - np.cos(np.arange(w.size)).reshape(w.shape)))


@pytest.mark.parametrize(
    ("inner", "multiplicative", "beta"),
    [
        (kg.SGD, False, 1e-4),
        (kg.SGD, True, 0.1),
        (keras.optimizers.Adam, False, 1e-5),
        (keras.optimizers.Adam, True, 0.2),
    ],
)
def test_a_rate_far_too_small_recovers(inner: Any, multiplicative: bool, beta: float) -> None:
    learned = kg.HypergradientDescent(inner(1e-4), beta, multiplicative)
    fixed, moved = train(inner(1e-4), 80), train(learned, 80)
    assert rate_of(learned) > 20 * 1e-4
    assert distance(moved) < 0.5 * distance(fixed)


@both
def test_a_rate_that_overshoots_falls(multiplicative: bool) -> None:
    # A parabola of curvature 1, stable below a rate of 2: each step ends on the other side.
    optimizer = kg.HypergradientDescent(kg.SGD(1.9), 0.05, multiplicative)
    w = keras.Variable([3.0])
    for _ in range(40):
        optimizer.apply([ops.convert_to_tensor(w.value)], [w])
    assert rate_of(optimizer) < 1.5
    assert abs(values([w])[0][0]) < 1e-3


def test_the_multiplicative_rule_does_not_know_the_losses_scale() -> None:
    ends = []
    for scale in (1.0, 64.0):
        optimizer, ws = kg.HypergradientDescent(kg.Adam(0.01), multiplicative=True), variables()
        for step in range(10):
            gs = gradients(values(ws), step)
            optimizer.apply([ops.convert_to_tensor(scale * g) for g in gs], ws)
        ends.append(values(ws))
    # Adam's epsilon knows it, by 1e-7 of the gradient.
    assert_close([ends[1]], [ends[0]], 1e-5)


def variables() -> list[keras.Variable]:
    return [keras.Variable(w, name=f"w{i}") for i, w in enumerate(start_weights())]


@both
def test_under_accumulation_a_step_sees_the_mean_gradient(multiplicative: bool) -> None:
    beta = 0.05 if multiplicative else 1e-4
    whole = kg.HypergradientDescent(kg.SGD(0.02), beta, multiplicative)
    parts = kg.HypergradientDescent(
        kg.SGD(0.02, gradient_accumulation_steps=2), beta, multiplicative
    )
    ws, vs = variables(), variables()
    for step in range(5):
        a, b = gradients(values(ws), 2 * step), gradients(values(ws), 2 * step + 1)
        whole.apply([ops.convert_to_tensor((p + q) / 2) for p, q in zip(a, b, strict=True)], ws)
        before = rate_of(parts)
        parts.apply([ops.convert_to_tensor(p) for p in a], vs)
        assert rate_of(parts) == before
        parts.apply([ops.convert_to_tensor(q) for q in b], vs)
        assert_close([values(vs)], [values(ws)], 1e-6)
        np.testing.assert_allclose(rate_of(parts), rate_of(whole), rtol=1e-5)
    assert rate_of(whole) != pytest.approx(0.02, rel=1e-3)


@both
@pytest.mark.parametrize("poison", [np.nan, np.inf])
def test_a_gradient_that_is_not_finite_leaves_the_rate(poison: float, multiplicative: bool) -> None:
    # Signs alone move the weights, so that they stay finite.
    optimizer = kg.HypergradientDescent(kg.SGD(0.1, clipvalue=1.0), 0.01, multiplicative)
    w = keras.Variable([1.0, 2.0])
    optimizer.apply([ops.array([0.5, 1.0])], [w])
    optimizer.apply([ops.array([0.5, 1.0])], [w])
    before = rate_of(optimizer)
    optimizer.apply([ops.array([poison, 1.0])], [w])
    assert rate_of(optimizer) == before
    w.assign([1.0, 2.0])
    for _ in range(3):
        optimizer.apply([ops.array([0.5, 1.0])], [w])
    assert np.isfinite(rate_of(optimizer))
    assert rate_of(optimizer) > before


@both
def test_the_rate_goes_no_lower_than_its_bound(multiplicative: bool) -> None:
    beta = 0.9 if multiplicative else 10.0
    optimizer = kg.HypergradientDescent(kg.SGD(0.1), beta, multiplicative, least_rate=0.02)
    w = keras.Variable([1.0])
    # Gradients that change sign at every step: each step was wrong.
    for step in range(6):
        optimizer.apply([ops.array([(-1.0) ** step])], [w])
    assert rate_of(optimizer) == pytest.approx(0.02)


def test_from_a_bound_of_zero_the_additive_rule_starts_again() -> None:
    optimizer = kg.HypergradientDescent(kg.SGD(0.1), 0.2)
    w = keras.Variable([1.0])
    optimizer.apply([ops.array([1.0])], [w])
    optimizer.apply([ops.array([-1.0])], [w])
    assert rate_of(optimizer) == 0.0
    held = values([w])[0]
    # Downhill along the last direction there was: + 0.2 * 1 * 1.
    optimizer.apply([ops.array([1.0])], [w])
    assert rate_of(optimizer) == pytest.approx(0.2)
    np.testing.assert_allclose(values([w])[0], held - 0.2)


def test_a_rate_that_is_set_is_the_one_to_go_on_from() -> None:
    optimizer = kg.HypergradientDescent(kg.SGD(0.1), 0.01)
    w = keras.Variable([1.0])
    optimizer.apply([ops.array([1.0])], [w])
    optimizer.learning_rate = 0.5
    optimizer.apply([ops.array([1.0])], [w])
    assert rate_of(optimizer) == pytest.approx(0.51)


@both
def test_a_model_saved_in_training_goes_on_exactly(multiplicative: bool, tmp_path: Path) -> None:
    x, y = regression_data()
    model = network()
    optimizer = kg.HypergradientDescent(kg.Adam(1e-3), 1e-5, multiplicative)
    model.compile(optimizer=optimizer, loss="mse", jit_compile=JIT)
    model.fit(x, y, epochs=2, batch_size=16, shuffle=False, verbose=0)
    assert rate_of(optimizer) != pytest.approx(1e-3, rel=1e-6)
    model.save(tmp_path / "m.keras")
    loaded = keras.models.load_model(tmp_path / "m.keras")
    assert rate_of(loaded.optimizer) == rate_of(optimizer)
    for other in (model, loaded):
        other.fit(x, y, epochs=2, batch_size=16, shuffle=False, verbose=0)
    for a, b in zip(values(model.variables), values(loaded.variables), strict=True):
        np.testing.assert_array_equal(a, b)
    assert rate_of(loaded.optimizer) == rate_of(optimizer)


def test_it_learns_the_rate_through_another_wrapper() -> None:
    inner = kg.Lookahead(kg.SGD(0.001), sync_period=3)
    optimizer = kg.HypergradientDescent(inner, 1e-4)
    train(optimizer, 5)
    assert rate_of(inner.inner) == rate_of(optimizer) > 0.0011


def test_loss_scaling_is_undone_before_the_rate_is_learned() -> None:
    plain, scaled = (
        kg.HypergradientDescent(kg.SGD(0.01, loss_scale_factor=f), 1e-3) for f in (None, 32.0)
    )
    ws, vs = variables(), variables()
    for step in range(4):
        gs = gradients(values(ws), step)
        plain.apply([ops.convert_to_tensor(g) for g in gs], ws)
        scaled.apply([ops.convert_to_tensor(32.0 * g) for g in gs], vs)
    np.testing.assert_allclose(rate_of(scaled), rate_of(plain), rtol=1e-5)
    assert rate_of(plain) > 0.011


def test_bfloat16_weights_learn_about_the_same_rate() -> None:
    rates = []
    for dtype in ("float32", "bfloat16"):
        optimizer = kg.HypergradientDescent(kg.SGD(0.002), 1e-4)
        ws = [keras.Variable(w, dtype=dtype, name=f"w{i}") for i, w in enumerate(start_weights())]
        for step in range(20):
            gs = gradients(start_weights(), step)
            optimizer.apply([ops.cast(g, dtype) for g in gs], ws)
        rates.append(rate_of(optimizer))
    # A step of 0.002 is half of a bfloat16's last digit near 1: directions are rounded.
    assert rates[1] == pytest.approx(rates[0], rel=0.1)
    assert rates[0] > 0.004


def test_a_schedule_inside_is_refused() -> None:
    scheduled = kg.SGD(kg.schedules.CosineDecay(0.1, 10))
    for inner in (scheduled, kg.Lookahead(kg.SGD(lambda: 0.1))):
        with pytest.raises(ValueError, match="sets the learning rate itself.*follows a schedule"):
            kg.HypergradientDescent(inner)


def test_a_factor_that_could_turn_negative_is_refused() -> None:
    with pytest.raises(
        ValueError, match=r"must be below 1 with multiplicative=True, received 1\.5"
    ):
        kg.HypergradientDescent("sgd", 1.5, multiplicative=True)
