"""ReduceOnPlateau: follows the training loss inside the compiled step."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras
import numpy as np
import optax
import pytest

import keras_gradopt as kg
from tests.keras_gradopt.problems import network, regression_data

JIT = keras.backend.backend() != "torch"
SETTINGS = (
    {"factor": 0.5, "patience": 3},
    {"factor": 0.1, "patience": 2, "cooldown": 2, "average_steps": 3},
    {"factor": 0.3, "patience": 1, "relative_delta": 0.0, "min_delta": 0.05, "min_scale": 0.05},
)


def losses(steps: int = 60) -> np.ndarray:
    """A loss that falls, rests, falls again, with noise."""
    rng = np.random.default_rng(0)
    t = np.arange(steps)
    return (
        np.where(t < 15, 3 - 0.1 * t, np.where(t < 40, 1.5, 0.8)) + rng.normal(size=steps) * 0.02
    ).astype("float32")


@pytest.mark.parametrize("setting", SETTINGS)
def test_it_reduces_when_optax_does(setting: dict[str, Any]) -> None:
    rate = kg.schedules.ReduceOnPlateau(0.1, **{"average_steps": 1, **setting})
    optimizer = kg.SGD(rate)
    w = keras.Variable([1.0])
    optimizer.build([w])
    names = {"average_steps": "accumulation_size", "relative_delta": "rtol", "min_delta": "atol"}
    peer = optax.contrib.reduce_on_plateau(**{names.get(k, k): v for k, v in setting.items()})
    state = peer.init({"w": np.zeros(1, "float32")})
    scales = set()
    for loss in losses():
        optimizer.observe(loss)
        _, state = peer.update({"w": np.zeros(1, "float32")}, state, value=loss)
        now = float(keras.ops.convert_to_numpy(optimizer.learning_rate))
        assert now == pytest.approx(0.1 * float(state.scale), rel=1e-6)
        scales.add(round(now, 9))
    assert len(scales) >= 3


def bound(optimizer: keras.optimizers.Optimizer) -> keras.Model:
    model = kg.bind(network())
    model.compile(optimizer=optimizer, loss="mse", jit_compile=JIT)
    return model


class Losses(keras.callbacks.Callback):
    """Each step's loss from a batch of its own, before the step."""

    def __init__(self, x: Any, y: Any, size: int) -> None:
        super().__init__()
        self.x, self.y, self.size, self.found = x, y, size, []

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        rows = slice(batch * self.size, (batch + 1) * self.size)
        model = self.model
        predicted = keras.ops.convert_to_numpy(model(self.x[rows]))
        self.found.append(float(np.mean((predicted - self.y[rows]) ** 2)))


@pytest.mark.parametrize("around", [lambda o: o, kg.Lookahead], ids=["alone", "wrapped"])
def test_a_bound_model_hands_over_each_step_s_own_loss(around: Any) -> None:
    x, y = regression_data(64)
    rate = kg.schedules.ReduceOnPlateau(0.05, average_steps=1000)
    model = bound(around(kg.SGD(rate)))
    seen = Losses(x, y, 16)
    history = model.fit(
        x, y, epochs=3, batch_size=16, shuffle=False, verbose=0, callbacks=[seen]
    ).history["loss"]
    mean = float(keras.ops.convert_to_numpy(rate.state["mean"].value))
    assert mean == pytest.approx(np.mean(seen.found), rel=1e-5)
    # The running mean that Keras shows is put together again.
    np.testing.assert_allclose(history, np.mean(np.reshape(seen.found, (3, 4)), axis=1), rtol=1e-5)


def test_it_lowers_the_rate_beside_another_schedule_and_keeps_its_state(tmp_path: Path) -> None:
    x, y = regression_data(64)
    inner = kg.schedules.ExponentialDecay(0.05, 100, 0.5)
    rate = kg.schedules.ReduceOnPlateau(
        inner, factor=0.5, patience=1, average_steps=4, relative_delta=0.05
    )
    model = bound(kg.SGD(rate))
    # Labels that nothing explains: the loss soon stops falling.
    noise = np.random.default_rng(0).normal(size=y.shape).astype("float32")
    model.fit(x * 0, noise, epochs=20, batch_size=16, shuffle=False, verbose=0)
    scale = float(keras.ops.convert_to_numpy(rate.state["scale"].value))
    assert 0 < scale < 0.3
    shown = float(keras.ops.convert_to_numpy(model.optimizer.learning_rate))
    assert shown == pytest.approx(0.05 * 0.5 ** (80 / 100) * scale, rel=1e-5)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    again = float(keras.ops.convert_to_numpy(loaded.optimizer.learning_rate))
    assert again == pytest.approx(shown, rel=1e-6)
    with pytest.raises(RuntimeError, match=r"follows the loss and needs a bound model"):
        loaded.fit(x, y, verbose=0)


def test_one_object_for_two_optimizers_is_refused() -> None:
    rate = kg.schedules.ReduceOnPlateau(0.1)
    kg.SGD(rate).build([keras.Variable([1.0])])
    with pytest.raises(ValueError, match="belongs to another optimizer"):
        kg.SGD(rate).build([keras.Variable([1.0])])


def test_keras_own_optimizers_are_refused_as_they_do_not_hand_the_loss_on() -> None:
    w = keras.Variable([1.0])
    optimizer = keras.optimizers.SGD(kg.schedules.ReduceOnPlateau(0.1))
    optimizer.build([w])
    with pytest.raises(RuntimeError, match="Keras' own do not know"):
        optimizer.apply([keras.ops.ones((1,))], [w])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"factor": 1.0}, r"factor must be in \(0, 1\)"),
        ({"patience": 0}, "patience must be a whole number >= 1"),
        ({"average_steps": 0}, "average_steps must be a whole number >= 1"),
        ({"min_scale": 2.0}, r"min_scale must be in \[0, 1\]"),
        ({"schedule": -0.1}, "schedule must be in"),
    ],
)
def test_bad_arguments_are_named(arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        kg.schedules.ReduceOnPlateau(**{"schedule": 0.1, **arguments})
