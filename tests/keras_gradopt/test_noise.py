"""Random numbers in a step: normal, of their own each time, and the same again."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest
from keras import ops
from scipy import stats

import keras_gradopt as kg
from keras_gradopt.arguments import Hyperparameters
from tests.keras_gradopt.problems import regression_data, train, values

AddNoise = kg.transforms.AddNoise


def drawn(step: Any, seed: int = 0, number: int = 0) -> np.ndarray:
    h = Hyperparameters(step=step)
    return np.array(ops.convert_to_numpy(h.normal((20_000,), seed, number)))


def test_the_numbers_are_standard_normal() -> None:
    # A sound generator fails this once in a million seeds; these are fixed.
    assert stats.kstest(drawn(1), "norm").pvalue > 1e-6
    assert stats.kstest(drawn(7, seed=3, number=2), "norm").pvalue > 1e-6


def test_they_differ_by_step_seed_and_number_and_are_the_same_again() -> None:
    draws = [drawn(1), drawn(2), drawn(1, seed=1), drawn(1, number=1), drawn(2, number=1)]
    for i, a in enumerate(draws):
        for b in draws[:i]:
            # Independent samples of this size correlate by 1/141; six times that is no chance.
            assert abs(np.corrcoef(a, b)[0, 1]) < 6 / 141
    np.testing.assert_array_equal(drawn(1), draws[0])
    np.testing.assert_array_equal(drawn(ops.convert_to_tensor(2.0)), draws[1])


def test_the_noise_on_gradients_has_the_paper_s_variance_at_each_step() -> None:
    w = keras.Variable(np.zeros(20_000, "float32"))
    optimizer = kg.SGD(1.0, gradient_transforms=[AddNoise(eta=0.3, gamma=0.55)])
    before = values([w])[0]
    for t in range(1, 5):
        optimizer.apply([ops.zeros((20_000,))], [w])
        now = values([w])[0]
        # The standard error of a variance from n samples is sqrt(2 / n) of it; five of them.
        assert (now - before).var() == pytest.approx(0.3 / t**0.55, rel=5 * (2 / 20_000) ** 0.5)
        before = now


def test_each_variable_gets_noise_of_its_own() -> None:
    ws = [keras.Variable(np.zeros(20_000, "float32"), name=n) for n in "ab"]
    kg.SGD(1.0, gradient_transforms=[AddNoise()]).apply([ops.zeros((20_000,))] * 2, ws)
    a, b = values(ws)
    assert abs(np.corrcoef(a, b)[0, 1]) < 6 / 141


def test_a_seed_gives_the_same_training_in_fit_and_after_loading(tmp_path: Any) -> None:
    x, y = regression_data(64)

    def fitted(seed: int) -> keras.Model:
        model = keras.Sequential(
            [keras.Input((5,)), keras.layers.Dense(1, kernel_initializer="ones")]
        )
        noise = AddNoise(eta=0.3, seed=seed)
        on_torch = keras.backend.backend() == "torch"
        model.compile(
            optimizer=kg.Adam(0.01, gradient_transforms=[noise]),
            loss="mse",
            jit_compile=not on_torch,
        )
        model.fit(x, y, epochs=2, batch_size=16, shuffle=False, verbose=0)
        return model

    first, again, other = fitted(0), fitted(0), fitted(1)
    for a, b, c in zip(*(values(m.variables) for m in (first, again, other)), strict=True):
        np.testing.assert_array_equal(a, b)
        assert not np.array_equal(a, c)
    first.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    for model in (first, loaded):
        model.fit(x, y, epochs=1, batch_size=16, shuffle=False, verbose=0)
    for a, b in zip(values(first.variables), values(loaded.variables), strict=True):
        np.testing.assert_array_equal(a, b)


def test_no_noise_is_no_change() -> None:
    silent = train(kg.SGD(0.02, gradient_transforms=[AddNoise(eta=0.0)]), 3)
    for a, b in zip(silent[-1], train(kg.SGD(0.02), 3)[-1], strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"eta": -1.0}, "eta must be in"),
        ({"gamma": -0.1}, "gamma must be in"),
        ({"seed": -1}, "seed must be a whole number >= 0"),
        ({"seed": 0.5}, "seed must be a whole number"),
    ],
)
def test_noise_that_is_none_is_named(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        AddNoise(**arguments)
