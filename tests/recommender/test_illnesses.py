"""Each illness on a model that has it and on one that has not, and what its mend does."""

from __future__ import annotations

import dataclasses
import math
import random
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
import pytest

from recommender import treatments
from recommender.aftermath import Aftermath
from recommender.budget import Budget
from recommender.candidates import hurdle
from recommender.columns import scale_spread
from recommender.description import describe
from recommender.illnesses import Evidence, Finding, illnesses
from recommender.illnesses.drifting_data import change_over_time
from recommender.illnesses.label_noise import contradicted
from recommender.measurements import Measurements
from recommender.mending import Effect, measured_effect
from recommender.population import open_population
from recommender.probes import ProbeResult, Rung
from recommender.problem import Problem
from recommender.settings import Setting
from tests.recommender.problems import problem

DEFAULT = hurdle().setting
FAST = dataclasses.replace(DEFAULT, learning_rate=1e-2)
Dense = keras.layers.Dense


@pytest.fixture(autouse=True)
def _first_weights() -> None:
    random.seed(0)  # initialisers without a seed draw theirs here


def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def illness(code: str) -> Any:
    return next(one for one in illnesses() if one.code == code)


def evidence(asked: Problem) -> Evidence:
    population = open_population(asked, [DEFAULT], Budget("thorough", 10**5))
    return Evidence(asked, describe(asked), Measurements(population, DEFAULT))


def seen(code: str, asked: Problem | Evidence) -> Finding | None:
    given = evidence(asked) if isinstance(asked, Problem) else asked
    found: Finding | None = illness(code).examine(given)
    return found


def effect(
    code: str,
    asked: Problem | Evidence,
    setting: Setting = DEFAULT,
    *,
    which: int = 0,
    steps: int = 64,
) -> Effect:
    given = evidence(asked) if isinstance(asked, Problem) else asked
    finding = illness(code).examine(given)
    assert finding is not None
    mend = illness(code).mends(given, finding)[which]
    budget = Budget("thorough", 10**5)
    length = (steps, steps - steps // 4)
    found = measured_effect(given.problem, mend, setting, length, budget)
    assert found is not None
    # Either side costs its steps and one validation, whatever its batch size; less if it breaks.
    changed = mend.problem(given.problem) if mend.problem else given.problem
    assert changed is not None
    times = changed.batch_size / given.problem.batch_size
    rows = min(len(given.problem.y_val), 1024) // 8 * 8
    validated = rows / given.problem.batch_size / 3
    assert budget.by_purpose["mending"] <= 2 * (steps + validated) + times + 0.01
    return found


def net(*layers: Any, width: int = 4) -> keras.Model:
    return keras.Sequential([keras.Input((width,)), *layers])


def gaussian(rows: int = 400, width: int = 4) -> np.ndarray:
    return rng().normal(size=(rows, width)).astype("float32")


def linear_targets(x: np.ndarray) -> np.ndarray:
    size = np.sqrt(np.mean(x.astype("float64") ** 2, axis=0))
    return (x / size @ np.array([1.0, -1.0, 0.5, 0.2])[:, None]).astype("float32")


def classes(x: np.ndarray, cut: float = 0.0) -> np.ndarray:
    return (x[:, 0] + x[:, 1] > cut).astype("int32")


LOGITS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def classification(x: np.ndarray, y: np.ndarray, **changes: Any) -> Problem:
    model = net(Dense(16, activation="tanh"), Dense(2))
    return problem(**{"x": x, "y": y, "loss": LOGITS, "model": model} | changes)


# ---------------------------------------------------------------------- all of them


def test_every_illness_says_what_it_is() -> None:
    codes = [one.code for one in illnesses()]
    assert len(codes) == len(set(codes)) > 30
    for one in illnesses():
        assert type(one).__module__.endswith(f".{one.code}"), "a file is called like its illness"
        assert one.source
        assert type(one).__doc__


def test_a_healthy_training_has_none() -> None:
    given = evidence(problem())
    hints = {one.code for one in illnesses() if one.hint}
    found = [one.code for one in illnesses() if one.moment != "race" and one.examine(given)]
    assert set(found) <= hints


# ---------------------------------------------------------------------- seen in the data


def test_columns_of_different_size_are_standardised() -> None:
    x = gaussian() * np.array([1, 300, 300, 1], "float32")
    sick = problem(x=x, y=linear_targets(x))
    found = seen("features_badly_scaled", sick)
    assert found is not None
    assert found.value == pytest.approx(300, rel=0.2)
    changed = treatments.standardised(sick)
    layer = keras.layers.Normalization()
    layer.adapt(sick.x)
    np.testing.assert_allclose(changed.x, layer(sick.x), atol=1e-4)
    assert effect("features_badly_scaled", sick, FAST).helps


def test_pixels_that_are_rarely_lit_are_not_badly_scaled() -> None:
    pixels = rng().integers(1, 17, (1000, 20)) * (
        rng().random((1000, 20)) < np.geomspace(1, 0.01, 20)
    )
    deviations = np.sort(pixels.std(0))
    assert deviations[-2] / deviations[2] > 3
    assert scale_spread(pixels) < math.log10(1.5)


def test_targets_far_from_the_outputs_are_rescaled() -> None:
    x = gaussian()
    sick = problem(x=x, y=500 + 200 * linear_targets(x))
    assert seen("targets_badly_scaled", problem(x=x, y=linear_targets(x))) is None
    changed = treatments.rescaled_targets(sick)
    outputs = rng().normal(size=(5, 1)).astype("float32")
    expected = np.mean((outputs * sick.y.std() + sick.y.mean() - sick.y[:5]) ** 2)
    assert float(changed.loss(sick.y[:5], outputs)) == pytest.approx(float(expected), rel=1e-4)
    assert effect("targets_badly_scaled", sick, FAST).relative < -0.9


def test_rare_classes_start_at_their_frequency() -> None:
    x = gaussian(2000)
    y = (rng().random(2000) < 0.02).astype("int32")
    sick = classification(x, y)
    found = seen("class_imbalance", sick)
    assert found is not None
    counts = np.bincount(sick.y)
    assert found.value == pytest.approx(counts.max() / counts.min())
    assert seen("class_imbalance", classification(gaussian(), classes(gaussian()))) is None

    changed = treatments.with_class_frequencies(sick)
    bias = np.asarray(keras.ops.convert_to_numpy(changed.model.layers[-1].bias))
    shares = np.exp(bias) / np.exp(bias).sum()
    np.testing.assert_allclose(shares, (counts + 1) / (counts + 1).sum(), rtol=1e-5)
    assert effect("class_imbalance", sick).helps


def test_wrong_targets_are_borne_by_the_huber_loss() -> None:
    x = gaussian()
    y = linear_targets(x)
    x_val = np.random.default_rng(1).normal(size=(200, 4)).astype("float32")
    wrong = y + np.where(rng().random((400, 1)) < 0.03, 60, 0).astype("float32")
    sick = problem(
        x=x, y=wrong, validation_data=(x_val, linear_targets(x_val)), model=net(Dense(1))
    )
    found = seen("heavy_tailed_targets", sick)
    assert found is not None
    away = wrong.astype("float64") - wrong.mean(dtype="float64")
    assert found.value == pytest.approx(np.mean(away**4) / np.mean(away**2) ** 2, rel=1e-5)
    assert seen("heavy_tailed_targets", problem(x=x, y=y)) is None
    # Judged by the squared error on targets that are right.
    assert effect("heavy_tailed_targets", sick, FAST, steps=200).relative < -0.3


def test_batch_statistics_of_four_examples_are_replaced() -> None:
    def model() -> keras.Model:
        norm = keras.layers.BatchNormalization
        return net(Dense(16), norm(), keras.layers.ReLU(), Dense(1))

    x = gaussian()
    sick = problem(x=x, y=linear_targets(x), model=model(), batch_size=2)
    assert seen("batch_norm_small_batch", problem(model=model(), batch_size=32)) is None
    changed = treatments.without_batch_statistics(sick)
    assert changed is not None
    kinds = [type(layer).__name__ for layer in changed.model.layers]
    assert "LayerNormalization" in kinds
    assert "BatchNormalization" not in kinds
    kept = [layer for layer in changed.model.layers if layer.name == sick.model.layers[0].name]
    np.testing.assert_array_equal(
        keras.ops.convert_to_numpy(kept[0].kernel),
        keras.ops.convert_to_numpy(sick.model.layers[0].kernel),
    )
    assert effect("batch_norm_small_batch", sick, FAST, steps=200).relative < 0


def test_marks_of_missing_values_are_replaced() -> None:
    x = gaussian(600)
    marked = x.copy()
    marked[rng().random(600) < 0.1, 1] = -999
    sick = problem(x=marked, y=linear_targets(x))
    found = seen("missing_values_coded", sick)
    assert found is not None
    assert found.value == 1
    assert "-999" in found.text
    assert seen("missing_values_coded", problem(x=x, y=linear_targets(x))) is None
    counts = np.round(np.abs(gaussian()) * 2)  # small whole numbers are no marks
    counts[:3] = 400
    assert not treatments.marks(counts)
    rare = np.where(rng().random((600, 1)) < 0.04, rng().integers(1, 7, (600, 1)) / 8, 0.0)
    rare[:20] = 1  # a share that is mostly 0 is none either
    assert not treatments.marks(rare)
    assert effect("missing_values_coded", sick, FAST).helps


def test_rare_huge_inputs_are_clipped() -> None:
    x = gaussian(1000)
    wild = x.copy()
    wild[rng().random((1000, 4)) < 0.003] *= 300
    sick = problem(x=wild, y=linear_targets(x), model=net(Dense(1)))
    assert seen("input_outliers", sick) is not None
    assert seen("input_outliers", problem(x=x, y=linear_targets(x))) is None
    assert effect("input_outliers", sick, FAST, steps=200).helps


def test_units_that_start_alike_are_drawn_apart() -> None:
    x = gaussian()

    def model(kernel: Any) -> keras.Model:
        hidden = Dense(16, activation="relu", kernel_initializer=kernel)
        return net(hidden, Dense(1, kernel_initializer=kernel))

    y = np.abs(x[:, :1])  # needs units that differ
    sick = problem(x=x, y=y, model=model(keras.initializers.Constant(0.1)))
    assert seen("symmetric_start", sick) is not None
    assert seen("symmetric_start", problem(x=x, y=y, model=model("glorot_uniform"))) is None
    assert effect("symmetric_start", sick, FAST, steps=200).helps


def test_rare_features_ask_for_larger_steps_on_them() -> None:
    x = (rng().random((400, 4)) < 0.05).astype("float32")
    assert seen("sparse_features", problem(x=x, y=x[:, :1])) is not None
    assert seen("sparse_features", problem()) is None
    mend = illness("sparse_features").mends(evidence(problem()), Finding("", ""))[0]
    assert mend.setting(DEFAULT) != DEFAULT
    assert mend.testable


def test_long_sequences_ask_for_clipping() -> None:
    def recurrent(length: int) -> Problem:
        model = keras.Sequential([keras.Input((length, 1)), keras.layers.GRU(3), Dense(1)])
        x = rng().normal(size=(80, length, 1)).astype("float32")
        return problem(model=model, x=x, y=x[:, 0])

    found = seen("recurrent_unclipped", recurrent(40))
    assert found is not None
    assert found.value == 40
    assert seen("recurrent_unclipped", recurrent(4)) is None
    mend = illness("recurrent_unclipped").mends(evidence(problem()), found)[0]
    assert dict(mend.setting(DEFAULT).config) == {"global_clipnorm": 1.0}


def test_small_smooth_models_are_pointed_to_second_order_methods() -> None:
    assert seen("small_smooth_problem", problem(model=net(Dense(1)))) is not None
    kinked = net(Dense(8, activation="relu"), Dense(1))
    assert seen("small_smooth_problem", problem(model=kinked)) is None


# ---------------------------------------------------------------------- seen at the start


def scaled_identity(factor: float, depth: int = 5, width: int = 4) -> keras.Model:
    layers = [Dense(width, use_bias=False) for _ in range(depth)]
    model = net(*layers, Dense(1))
    for layer in layers:
        layer.kernel.assign(factor * np.eye(width))
    model.layers[-1].kernel.assign(np.full((width, 1), 0.5))
    return model


def test_gradients_shrink_by_each_layer_s_factor() -> None:
    x = gaussian()
    sick = evidence(problem(x=x, y=linear_targets(x), model=scaled_identity(0.1)))
    found = seen("vanishing_gradients", sick)
    assert found is not None
    # From the outputs' gradient d: 0.5 d sqrt(4) at the last hidden layer, a tenth for each before.
    assert found.value == pytest.approx(10**4, rel=1e-4)
    assert seen("exploding_gradients", sick) is None


def test_faint_layers_are_normalised_or_drawn_anew() -> None:
    faint = keras.initializers.RandomNormal(stddev=0.02, seed=1)
    hidden = [Dense(16, activation="tanh", kernel_initializer=faint) for _ in range(5)]
    x = gaussian()
    sick = evidence(problem(x=x, y=linear_targets(x), model=net(*hidden, Dense(1))))
    for which in (0, 1):  # layer normalisation, other first weights
        assert effect("vanishing_gradients", sick, DEFAULT, which=which).helps


def test_gradients_and_activations_grow_by_each_layer_s_factor() -> None:
    x = gaussian()
    sick = evidence(problem(x=x, y=linear_targets(x), model=scaled_identity(10.0)))
    found = seen("exploding_gradients", sick)
    assert found is not None
    # Four layers behind the first: 10^4 in size, 10^8 in variance.
    assert found.value == pytest.approx(10**8, rel=1e-3)
    assert seen("vanishing_gradients", sick) is None
    plain = Setting("sgd", 1e-2)
    for which in (1, 2):  # other first weights, clipping
        assert effect("exploding_gradients", sick, plain, which=which).helps
    healthy = evidence(problem(x=x, y=linear_targets(x), model=scaled_identity(1.0)))
    assert seen("exploding_gradients", healthy) is None
    assert seen("vanishing_gradients", healthy) is None


def test_silent_units_are_counted_and_made_leaky() -> None:
    def model(dead: int) -> keras.Model:
        hidden = Dense(8, activation="relu")
        found = net(hidden, Dense(1))
        hidden.bias.assign(np.where(np.arange(8) < dead, -8.0, 1.0))
        return found

    x = gaussian()
    sick = evidence(problem(x=x, y=linear_targets(x), model=model(7)))
    found = seen("dead_units", sick)
    assert found is not None
    assert found.value == pytest.approx(7 / 8)
    assert seen("dead_units", problem(x=x, y=linear_targets(x), model=model(1))) is None
    assert effect("dead_units", sick, FAST, steps=200).helps


def test_first_outputs_that_are_too_sure_are_damped() -> None:
    x = gaussian(4000)
    sick = classification(x, classes(x))
    sick.model.layers[-1].kernel.assign(40 * rng().normal(size=(16, 2)))
    given = evidence(sick)
    found = seen("initial_loss_too_high", given)
    assert found is not None
    assert found.value == pytest.approx(given.start.initial_loss)
    assert seen("initial_loss_too_high", classification(x, classes(x))) is None
    assert effect("initial_loss_too_high", given).helps


def test_thresholds_have_no_gradient_but_a_loss_that_moves() -> None:
    class Threshold(keras.layers.Layer):
        def call(self, x: Any) -> Any:
            return keras.ops.cast(x > 0, "float32")

    x = gaussian()
    steps = problem(x=x, y=linear_targets(x), model=net(Dense(4), Threshold()), loss=_summed)
    assert seen("no_usable_gradient", steps) is not None
    assert seen("no_usable_gradient", problem()) is None


def _summed(y: Any, outputs: Any) -> Any:
    return keras.ops.square(keras.ops.sum(outputs, axis=-1) - keras.ops.squeeze(y, -1))


def test_noise_of_gradients_agrees_with_the_formula() -> None:
    x = gaussian(256)
    y = linear_targets(x) + rng().normal(size=(256, 1)).astype("float32")
    asked = problem(x=x, y=y, model=net(Dense(1)), validation_data=(x[:40], y[:40]))
    given = evidence(asked)
    rows = asked.batch_indices(0, 4).ravel()
    w, b = (keras.ops.convert_to_numpy(v).astype("float64") for v in asked.model.weights)
    errors = x[rows].astype("float64") @ w + b - y[rows]
    each = 2 * errors * np.hstack([x[rows], np.ones((len(rows), 1))])
    means = each.reshape(16, 8, 5).mean(1)
    small, big = np.mean(np.sum(means**2, 1)), np.sum(each.mean(0) ** 2)
    trace = (small - big) / (1 / 8 - 1 / 128)
    signal = (128 * big - 8 * small) / 120
    noise = given.start.noise
    assert noise.scale == pytest.approx(trace / signal, rel=1e-3)
    np.testing.assert_allclose(noise.norms, np.linalg.norm(means, axis=1), rtol=1e-4)


def test_one_row_with_a_huge_gradient_asks_for_clipping() -> None:
    x = gaussian(128)
    y = linear_targets(x)
    wild = y.copy()
    wild[problem(x=x, y=y, validation_data=(x, y)).batch_indices(0, 1)[0, 3]] = 1e4
    sick = problem(x=x, y=wild, model=net(Dense(1)), validation_data=(x, y))
    found = seen("heavy_tailed_gradients", sick)
    assert found is not None
    assert found.value is not None
    assert found.value > 10
    assert seen("heavy_tailed_gradients", problem()) is None
    assert effect("heavy_tailed_gradients", sick, Setting("sgd", 3e-2)).helps


def test_rates_that_break_at_once_are_seen() -> None:
    x = gaussian() * 1000
    model = net(Dense(1, kernel_initializer="zeros"))
    found = seen("diverges_easily", problem(x=x, y=linear_targets(x), model=model))
    # A step of 1e-3 on each of four weights moves outputs by some 2: the loss is 1 before.
    assert found is not None
    assert found.value is not None
    assert found.value <= 1e-2
    assert seen("diverges_easily", problem()) is None


def test_the_ends_of_the_spectrum_are_those_of_the_matrix() -> None:
    x = gaussian(64) * np.array([1, 10, 100, 1000], "float32")
    asked = problem(x=x, y=linear_targets(x), model=net(Dense(1)), validation_data=(x, x[:, :1]))
    given = evidence(asked)
    rows = asked.batch_indices(0, 2).ravel()
    one = np.hstack([x[rows].astype("float64"), np.ones((64, 1))])
    values = np.linalg.eigvalsh(2 * one.T @ one / 64)
    spectrum = given.start.spectrum
    assert spectrum.largest == pytest.approx(values[-1], rel=1e-3)
    assert seen("pathological_curvature", given) is not None
    assert seen("pathological_curvature", problem(model=net(Dense(1)))) is None


# ---------------------------------------------------------------------- seen after a race


def raced(asked: Problem, setting: Setting = FAST, steps: int = 200) -> Evidence:
    """Evidence after a training of one setting."""
    population = open_population(asked, [setting], Budget("thorough", 10**5))
    measured = Measurements(population, dataclasses.replace(setting))
    trunk = population.trunk(setting)
    trunk.advance(steps, "race")
    blocks = tuple(float(b) for b in population.validate(trunk.state, "race"))
    result = ProbeResult(setting, (Rung(steps, blocks),), tuple(trunk.losses), None, "")
    after = Aftermath(population, [result], DEFAULT, measured.initial_loss, measured.allowance)
    return Evidence(asked, describe(asked), measured, after)


def curves(*results: ProbeResult, initial: float = 1.0) -> Evidence:
    """Evidence of a race as recorded."""
    asked = problem()
    population = open_population(asked, [DEFAULT], Budget("thorough", 10**5))
    measured = Measurements(population, DEFAULT)
    after = Aftermath(population, results, DEFAULT, initial, measured.allowance)
    return Evidence(asked, describe(asked), measured, after)


def result(
    setting: Setting,
    loss: float,
    losses: Sequence[float] = (),
    diverged_at: int | None = None,
) -> ProbeResult:
    return ProbeResult(setting, (Rung(100, (loss,)),), tuple(losses), diverged_at, "")


def test_a_gap_between_both_losses_is_seen() -> None:
    x, noise = gaussian(40), rng().normal(size=(40, 1))
    x_val = np.random.default_rng(1).normal(size=(300, 4)).astype("float32")
    held = (x_val, linear_targets(x_val))
    wide = net(Dense(256, activation="tanh"), Dense(1))
    y = (linear_targets(x) + 3 * noise).astype("float32")
    sick = raced(problem(x=x, y=y, model=wide, validation_data=held, batch_size=20), steps=400)
    found = seen("overfitting", sick)
    assert found is not None
    # The same ratio from the model itself.
    after = sick.after
    held_out, in_order = after.held_out, after.in_order
    assert held_out is not None
    assert in_order is not None
    errors = [np.mean((r.outputs - r.targets) ** 2) for r in (held_out, in_order)]
    assert found.value == pytest.approx(errors[0] / errors[1], rel=1e-4)
    x = gaussian(800)
    assert seen("overfitting", raced(problem(x=x, y=linear_targets(x)))) is None
    assert effect("overfitting", sick, FAST, steps=400).helps


def test_flipped_labels_are_contradicted_with_confidence() -> None:
    x = gaussian(1500)
    y = classes(x)
    flipped = np.where(rng().random(1500) < 0.15, 1 - y, y).astype("int32")
    found = seen("label_noise", raced(classification(x, flipped)))
    assert found is not None
    assert found.value == pytest.approx(0.15, abs=0.05)
    apart = x[np.abs(x[:, 0] + x[:, 1]) > 0.3]
    assert seen("label_noise", raced(classification(apart, classes(apart)))) is None


def test_confident_contradictions_are_counted_as_published() -> None:
    probabilities = np.array([[0.9, 0.1], [0.7, 0.3], [0.2, 0.8], [0.6, 0.4], [0.95, 0.05]])
    labels = np.array([0, 0, 1, 1, 1])
    # Usual probabilities: class 0 0.8, class 1 (0.8 + 0.4 + 0.05) / 3 = 0.417. Row 4 says class 0
    # at 0.95 against its label 1; row 3 is sure of neither.
    share, skill = contradicted(probabilities, labels)
    assert share == pytest.approx(1 / 5)
    assert skill == pytest.approx((3 / 5 - 3 / 5) / (2 / 5))


def test_rows_far_off_the_model_are_seen() -> None:
    x = gaussian(600)
    y = linear_targets(x) + 0.1 * rng().normal(size=(600, 1)).astype("float32")
    wrong = y + np.where(rng().random((600, 1)) < 0.03, 20, 0).astype("float32")
    sick = problem(x=x, y=wrong, model=net(Dense(1)))
    found = seen("outlying_residuals", raced(sick, steps=400))
    assert found is not None
    assert found.value == pytest.approx(0.03, abs=0.015)
    healthy = problem(x=x, y=y, model=net(Dense(1)))
    assert seen("outlying_residuals", raced(healthy, steps=400)) is None


def test_errors_that_depend_on_time_are_drift() -> None:
    x = gaussian(1200)
    turning = np.where(np.arange(1200)[:, None] < 300, -x[:, :1], x[:, :1])
    assert seen("drifting_data", raced(problem(x=x, y=turning))) is not None
    assert seen("drifting_data", raced(problem(x=x, y=x[:, :1]))) is None


def test_time_explains_nothing_of_losses_without_order() -> None:
    odds, share = change_over_time(rng().exponential(size=1024))
    assert odds > 0.001
    assert share == pytest.approx(15 / 1023, abs=0.02)  # of 16 means over 1 024 rows, by chance
    odds, share = change_over_time(np.repeat(np.arange(16.0), 64))
    assert odds < 1e-10
    assert share == pytest.approx(1)


def noise_scales(batch: int, noise: float) -> Evidence:
    x = gaussian(1600)
    y = linear_targets(x) + noise * rng().normal(size=(1600, 1)).astype("float32")
    return raced(problem(x=x, y=y, model=net(Dense(1)), batch_size=batch), DEFAULT, steps=16)


def test_batches_are_compared_with_the_noise_scale() -> None:
    assert seen("batch_too_large", noise_scales(400, 0.1)) is not None
    assert seen("batch_too_large", noise_scales(32, 0.1)) is None
    assert seen("batch_too_small", noise_scales(4, 20.0)) is not None
    assert seen("batch_too_small", noise_scales(32, 0.1)) is None


def test_smaller_batches_make_more_of_the_same_examples() -> None:
    assert effect("batch_too_large", noise_scales(400, 0.1), DEFAULT).helps


def test_a_race_that_goes_nowhere_is_a_plateau() -> None:
    found = seen("plateau", curves(result(DEFAULT, 0.99), result(FAST, 0.98)))
    assert found is not None
    assert found.value == pytest.approx(0.98)
    assert seen("plateau", curves(result(DEFAULT, 0.99), result(FAST, 0.9))) is None


def test_standing_still_is_told_from_convergence_by_a_higher_rate() -> None:
    still, falling = [1.0] * 100, list(np.linspace(1.0, 0.5, 100))
    sick = curves(result(DEFAULT, 0.99, still), result(FAST, 0.5, falling))
    assert seen("rate_too_small", sick) is not None
    converged = curves(result(DEFAULT, 0.5, [0.5] * 100), result(FAST, 0.5, falling))
    assert seen("rate_too_small", converged) is None
    moving = curves(result(DEFAULT, 0.8, falling), result(FAST, 0.5, falling))
    assert seen("rate_too_small", moving) is None


def test_slow_progress_is_measured_on_the_leader_s_way() -> None:
    found = seen("slow_progress", curves(result(DEFAULT, 0.9), result(FAST, 0.5)))
    assert found is not None
    assert found.value == pytest.approx(0.2)
    assert seen("slow_progress", curves(result(DEFAULT, 0.6), result(FAST, 0.5))) is None


def test_diverged_candidates_are_named() -> None:
    broken = result(FAST, math.inf, [1.0, math.inf], diverged_at=1)
    found = seen("divergence", curves(result(DEFAULT, 0.5), broken))
    assert found is not None
    assert "step 1" in found.text
    assert seen("divergence", curves(result(DEFAULT, 0.5))) is None


# ---------------------------------------------------------------------- effects


def test_a_change_that_changes_nothing_has_no_effect() -> None:
    asked = problem()
    given = evidence(asked)
    mend = dataclasses.replace(
        illness("sparse_features").mends(given, Finding("", ""))[0], setting=lambda old: old
    )
    found = measured_effect(asked, mend, DEFAULT, (40, 30), Budget("thorough", 10**5))
    assert found is not None
    assert found.relative == pytest.approx(0, abs=1e-6)
    assert not found.helps
    assert not found.harms


@pytest.mark.parametrize(
    "change", [treatments.normalised, treatments.with_leaky_units, treatments.redrawn]
)
def test_the_caller_s_problem_stays_as_it_was(
    change: Callable[[Problem], Problem | None],
) -> None:
    asked = problem(model=net(Dense(8, activation="relu"), Dense(1)))
    before = [np.array(keras.ops.convert_to_numpy(w)) for w in asked.model.weights]
    changed = change(asked)
    assert changed is not None
    assert changed.model is not asked.model
    for old, weight in zip(before, asked.model.weights, strict=True):
        np.testing.assert_array_equal(old, keras.ops.convert_to_numpy(weight))


def test_measurements_of_a_model_with_dropout_repeat_themselves() -> None:
    def measured() -> tuple[float, ...]:
        random.seed(0)
        model = net(Dense(8, activation="tanh"), keras.layers.Dropout(0.5), Dense(1))
        asked = problem(model=model)
        random.seed()  # whoever calls may have drawn anything in between
        return evidence(asked).start.noise.norms

    assert measured() == measured()
