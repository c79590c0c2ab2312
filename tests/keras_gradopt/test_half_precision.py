"""Half-precision weights: no step is too small to count, on any backend, compiled or not."""

from __future__ import annotations

from typing import Any

import keras
import ml_dtypes
import numpy as np
import pytest
from keras import ops

import keras_gradopt as kg
from keras_gradopt.tensors import split_half
from tests.keras_gradopt.problems import regression_data, values

HALVES = ("bfloat16", "float16")
NUMPY = {"bfloat16": ml_dtypes.bfloat16, "float16": np.float16}


@pytest.mark.parametrize("dtype", HALVES)
def test_a_number_is_split_into_what_half_precision_holds_and_the_rest(dtype: str) -> None:
    rng = np.random.default_rng(0)
    w = (rng.normal(size=10_000) * 10.0 ** rng.uniform(-3, 3, 10_000)).astype("float32")
    ties = np.array([1.0 + 2**-8, 1.0 + 3 * 2**-8, 1 + 2**-11, 1 + 3 * 2**-11, 0.0], "float32")
    w = np.concatenate([w, ties, -ties])
    # float16 holds fewer digits below its smallest normal number.
    w = w[(np.abs(w) >= 2.0**-14) | (w == 0)]
    high, low = (ops.convert_to_numpy(part) for part in split_half(ops.convert_to_tensor(w), dtype))
    np.testing.assert_array_equal(high, w.astype(NUMPY[dtype]).astype("float32"))
    np.testing.assert_array_equal(high.astype("float64") + low, w)


def test_what_is_not_finite_stays_what_it_is() -> None:
    w = ops.convert_to_tensor(np.array([np.inf, -np.inf, np.nan], "float32"))
    high, low = (ops.convert_to_numpy(part) for part in split_half(w, "bfloat16"))
    np.testing.assert_array_equal(high, ops.convert_to_numpy(w))
    np.testing.assert_array_equal(low, [0, 0, 0])


@pytest.mark.parametrize("dtype", HALVES)
def test_steps_below_the_last_digit_add_up(dtype: str) -> None:
    """A hundred steps of 1e-4 from 1: in bfloat16 each of them is rounded away."""
    w = keras.Variable(np.ones(3, "float32"), dtype=dtype)
    optimizer = kg.SGD(1e-4)
    for _ in range(100):
        optimizer.apply([ops.ones((3,), dtype=dtype)], [w])
    half_a_digit = 2**-9 if dtype == "bfloat16" else 2**-12
    np.testing.assert_allclose(values([w])[0], 0.99, atol=half_a_digit)
    frozen = keras.Variable(np.ones(3, "float32"), dtype="bfloat16")
    theirs = keras.optimizers.SGD(1e-4)
    for _ in range(100):
        theirs.apply([ops.ones((3,), dtype="bfloat16")], [frozen])
    np.testing.assert_array_equal(values([frozen])[0], 1.0)  # what is mended here


def _network(dtype: str) -> keras.Model:
    layers = [
        keras.layers.Dense(32, activation="tanh", dtype=dtype),
        keras.layers.Dense(1, dtype=dtype),
    ]
    model = keras.Sequential([keras.Input((5,), dtype=dtype), *layers])
    rng = np.random.default_rng(5)
    for v in model.trainable_variables:
        if v.name == "kernel":
            v.assign((rng.normal(size=v.shape)).astype("float32"))
    return model


@pytest.mark.parametrize("make", [lambda: kg.Adam(2e-3), lambda: kg.SGD(2e-3, momentum=0.9)])
@pytest.mark.parametrize("dtype", HALVES)
def test_a_model_in_half_precision_trains_as_in_float32(make: Any, dtype: str) -> None:
    x, y = regression_data(256)
    losses = {}
    for kind in ("float32", dtype):
        model = _network(kind)
        on_torch = keras.backend.backend() == "torch"
        model.compile(optimizer=make(), loss="mse", jit_compile=not on_torch)
        model.fit(x, y, epochs=25, batch_size=32, shuffle=False, verbose=0)
        for v in model.trainable_variables:
            assert v.dtype == kind
        # Judged in float32: the rounding of activations is not the optimizer's.
        judge = _network("float32")
        for ours, theirs in zip(judge.variables, model.variables, strict=True):
            ours.assign(ops.cast(theirs, "float32"))
        judge.compile(loss="mse")
        losses[kind] = judge.evaluate(x, y, verbose=0)
    start = _network("float32")
    start.compile(loss="mse")
    assert losses["float32"] < 0.3 * start.evaluate(x, y, verbose=0), "something was learnt"
    assert losses[dtype] == pytest.approx(losses["float32"], rel=0.05)


def test_saving_and_loading_keeps_the_lost_digits(tmp_path: Any) -> None:
    x, y = regression_data(64)
    model = _network("bfloat16")
    model.compile(optimizer=kg.Adam(1e-3), loss="mse", jit_compile=False)
    model.fit(x, y, epochs=2, batch_size=16, shuffle=False, verbose=0)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    for other in (model, loaded):
        other.fit(x, y, epochs=2, batch_size=16, shuffle=False, verbose=0)
    for a, b in zip(model.optimizer.variables, loaded.optimizer.variables, strict=True):
        np.testing.assert_array_equal(values([a])[0], values([b])[0])
    for a, b in zip(values(model.variables), values(loaded.variables), strict=True):
        np.testing.assert_array_equal(a, b)


def test_state_in_half_precision_is_the_lost_digits_alone() -> None:
    w = keras.Variable(np.ones(3, "float32"), dtype="bfloat16")
    optimizer = kg.Adam()
    optimizer.build([w])
    halves = [v.name for v in optimizer.variables if v.dtype == "bfloat16"]
    assert len(halves) == 1
    assert halves[0].endswith("lost_digits")
