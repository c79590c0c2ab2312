"""Wrappers: around our optimizers and around Keras' own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

import keras_gradopt as kg
from tests.keras_gradopt.problems import assert_close, network, regression_data, train, values

JIT = keras.backend.backend() == "jax"
INNERS = {
    "ours": lambda **kwargs: kg.Adam(0.05, **kwargs),
    "keras": lambda **kwargs: keras.optimizers.Adam(0.05, **kwargs),
}
around = pytest.mark.parametrize("inner", INNERS.values(), ids=INNERS)


@around
def test_lookahead_returns_to_slow_weights_every_k_steps(inner: Any) -> None:
    fast = train(inner(), 3)
    slow = train(kg.Lookahead(inner(), sync_period=3, slow_step_size=0.5), 3)
    assert_close(slow[:2], fast[:2], 1e-6)
    start = [np.array(w) for w in train(kg.SGD(0.0), 1)[0]]
    half_way = [s + 0.5 * (f - s) for s, f in zip(start, fast[2], strict=True)]
    assert_close([slow[2]], [half_way], 1e-6)


@around
def test_lookahead_that_goes_all_the_way_is_its_inner_optimizer(inner: Any) -> None:
    wrapped = kg.Lookahead(inner(), sync_period=1, slow_step_size=1.0)
    assert_close(train(wrapped, 6), train(inner(), 6), 1e-6)


@around
def test_it_saves_and_continues_around_any_optimizer(inner: Any, tmp_path: Path) -> None:
    x, y = regression_data()
    model = network()
    model.compile(optimizer=kg.Lookahead(inner(), sync_period=3), loss="mse", jit_compile=JIT)
    model.fit(x, y, epochs=1, batch_size=16, shuffle=False, verbose=0)
    model.save(tmp_path / "m.keras")
    loaded = keras.models.load_model(tmp_path / "m.keras")
    assert isinstance(loaded.optimizer.inner, type(model.optimizer.inner))
    for other in (model, loaded):
        other.fit(x, y, epochs=2, batch_size=16, shuffle=False, verbose=0)
    for a, b in zip(values(model.variables), values(loaded.variables), strict=True):
        np.testing.assert_array_equal(a, b)


@around
def test_a_checkpoint_names_the_inner_optimizer_as_every_backend_knows_it(inner: Any) -> None:
    """Keras on torch would write its private subclass' name."""
    config = kg.Lookahead(inner()).get_config()["inner"]
    assert "torch" not in config["module"]
    assert kg.Lookahead(config).inner.get_config() == kg.Lookahead(inner()).inner.get_config() | {
        "name": config["config"]["name"]
    }


def test_averages_of_the_inner_optimizer_are_swapped_by_keras_callback() -> None:
    x, y = regression_data()
    model = network()
    inner = kg.SGD(0.05, use_ema=True, ema_momentum=0.5)
    model.compile(optimizer=kg.Lookahead(inner), loss="mse", jit_compile=JIT)
    swap = keras.callbacks.SwapEMAWeights(swap_on_epoch=True)
    model.fit(x, y, validation_data=(x, y), epochs=2, batch_size=16, verbose=0, callbacks=[swap])
    assert np.isfinite(model.evaluate(x, y, verbose=0))


def test_keras_callback_swaps_the_averages_in_and_out() -> None:
    x, y = regression_data()
    model = network()
    model.compile(
        optimizer=kg.SGD(0.05, use_ema=True, ema_momentum=0.9), loss="mse", jit_compile=JIT
    )
    model.fit(x, y, epochs=1, batch_size=16, verbose=0)
    # The end of fit put the averages into the model; training on moves the two apart again.
    model.train_on_batch(x, y)
    trained = values(model.trainable_variables)
    averages = values(model.optimizer._model_variables_moving_average)
    swap = keras.callbacks.SwapEMAWeights()
    swap.set_model(model)
    swap.on_test_begin()
    for a, b in zip(values(model.trainable_variables), averages, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-6)
    swap.on_test_end()
    for a, b in zip(values(model.trainable_variables), trained, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-6)


def test_common_arguments_belong_to_the_inner_optimizer() -> None:
    with pytest.raises(ValueError, match="takes clipnorm through its inner optimizer"):
        kg.Lookahead("sgd", clipnorm=1.0)


def test_a_used_optimizer_is_refused() -> None:
    inner = kg.SGD()
    train(inner, 1)
    with pytest.raises(ValueError, match="not used yet"):
        kg.Lookahead(inner)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"inner": 3}, "received 3 of type int"),
        ({"inner": "sgd", "sync_period": 0}, "sync_period must be a whole number >= 1"),
        ({"inner": "sgd", "slow_step_size": 0.0}, r"slow_step_size must be in \(0, 1\]"),
    ],
)
def test_bad_arguments_are_named(arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        kg.Lookahead(**arguments)
