"""Weights that are trained and weights that are evaluated: which are in the model, and when."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import torch

import keras_gradopt as kg
from keras_gradopt import registry
from keras_gradopt.callbacks.evaluation_weights import averaging_optimizer
from tests.keras_gradopt.problems import (
    assert_close,
    gradients,
    network,
    regression_data,
    start_weights,
    train,
    values,
)

JIT = keras.backend.backend() != "torch"
AVERAGING = [c for c in registry.optimizer_classes().values() if c.averages_weights]
every_averaging_class = pytest.mark.parametrize("cls", AVERAGING, ids=lambda c: c.__name__)


class Seen(keras.callbacks.Callback):
    """The weights at the end of each epoch."""

    def __init__(self) -> None:
        super().__init__()
        self.weights: list = []

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        self.weights.append(values(self.model.trainable_variables))


def fitted(cls: type, epochs: int = 2, *, bound: bool = True, **fit: Any) -> keras.Model:
    x, y = regression_data()
    model = network()
    if bound:
        kg.bind(model)
    model.compile(optimizer=cls.example(), loss="mse", jit_compile=JIT)
    model.fit(x, y, epochs=epochs, batch_size=16, shuffle=False, verbose=0, **fit)
    return model


def average_in(model: keras.Model) -> bool:
    return bool(averaging_optimizer(model)._shared["evaluating"].value == 1)


@every_averaging_class
def test_the_average_is_in_the_model_from_the_end_of_the_epoch_on(cls: type) -> None:
    x, y = regression_data()
    seen = Seen()
    model = fitted(cls, callbacks=[seen], validation_data=(x, y))
    assert average_in(model)
    assert_close([values(model.trainable_variables)], [seen.weights[-1]], 0.0)
    history = model.history.history
    assert model.evaluate(x, y, verbose=0) == pytest.approx(history["val_loss"][-1], rel=1e-5)
    averaged = values(model.trainable_variables)
    averaging_optimizer(model).put_training_weights()
    now = values(model.trainable_variables)
    assert any(not np.allclose(a, b) for a, b in zip(averaged, now, strict=True))


@every_averaging_class
def test_two_fits_of_a_bound_model_are_one(cls: type) -> None:
    x, y = regression_data()
    model = fitted(cls, epochs=1)
    model.fit(x, y, epochs=1, batch_size=16, shuffle=False, verbose=0)
    assert_close(
        [values(model.trainable_variables)], [values(fitted(cls).trainable_variables)], 0.0
    )


@every_averaging_class
def test_without_binding_the_end_of_fit_puts_the_average_in(cls: type) -> None:
    unbound, bound = fitted(cls, 1, bound=False), fitted(cls, 1)
    assert average_in(unbound)
    assert_close([values(unbound.trainable_variables)], [values(bound.trainable_variables)], 1e-6)


@every_averaging_class
def test_a_step_takes_the_weights_in_training_back(cls: type) -> None:
    """Even where nobody put them back; only its gradient was taken at the average."""
    paths = []
    for forgotten in (False, True):
        optimizer = cls.example()
        ws = [keras.Variable(w) for w in start_weights()]
        for number in range(4):
            gs = gradients(start_weights(), number)
            optimizer.apply([keras.ops.convert_to_tensor(g) for g in gs], ws)
            if forgotten:
                optimizer.put_evaluation_weights(ws)
                optimizer.put_evaluation_weights(ws)  # in already
        optimizer.put_training_weights(ws)
        paths.append(values(ws))
    assert_close([paths[1]], [paths[0]], 1e-6)


@every_averaging_class
def test_a_saved_model_holds_the_average_and_goes_on_where_training_was(
    cls: type, tmp_path: Path
) -> None:
    x, y = regression_data()
    path = tmp_path / "model.keras"
    model = fitted(cls, callbacks=[keras.callbacks.ModelCheckpoint(path)])
    loaded = kg.bind(keras.models.load_model(path))
    assert average_in(loaded)
    for other in (model, loaded):
        other.fit(x, y, epochs=1, batch_size=16, shuffle=False, verbose=0)
    assert_close([values(loaded.trainable_variables)], [values(model.trainable_variables)], 0.0)


def test_averages_work_under_loss_scaling_and_around_one_another() -> None:
    keras.config.set_dtype_policy("mixed_float16")
    x, y = regression_data()
    model = kg.bind(network())
    inner = kg.Lookahead(kg.ScheduleFreeAdamW(0.02))
    model.compile(optimizer=inner, loss="mse", jit_compile=JIT)
    assert isinstance(model.optimizer, keras.optimizers.LossScaleOptimizer)
    model.fit(x, y, epochs=2, batch_size=16, verbose=0, validation_data=(x, y))
    assert average_in(model)


def test_the_callback_says_what_it_needs() -> None:
    x, y = regression_data()
    model = network()
    model.compile(optimizer="sgd", loss="mse")
    with pytest.raises(ValueError, match="needs an optimizer that averages weights"):
        model.fit(x, y, verbose=0, callbacks=[kg.callbacks.EvaluationWeights()])


def test_half_precision_weights_keep_their_lost_digits_through_an_evaluation() -> None:
    def path(evaluated: bool) -> list:
        optimizer = kg.ScheduleFreeSGD(1e-3)
        ws = [keras.Variable(w, dtype="bfloat16") for w in start_weights()]
        for number in range(10):
            gs = gradients(start_weights(), number)
            optimizer.apply([keras.ops.cast(g, "bfloat16") for g in gs], ws)
            if evaluated:
                optimizer.put_evaluation_weights(ws)
                optimizer.put_training_weights(ws)
        return [optimizer._read(ws)["ws"]]

    # To float32 rounding, though the weights themselves hold three digits.
    assert_close(
        [[keras.ops.convert_to_numpy(w) for w in path(evaluated=True)[0]]],
        [[keras.ops.convert_to_numpy(w) for w in path(evaluated=False)[0]]],
        1e-5,
    )


# ---------------------------------------------------------------------- BatchNormalization


def _normalised(dimension: int = 5) -> keras.Model:
    layers = [keras.layers.BatchNormalization(), keras.layers.Dense(1)]
    return keras.Sequential([keras.Input((dimension,)), keras.Sequential(layers)])


@pytest.mark.parametrize("as_dataset", [False, True])
def test_batch_norm_gets_the_mean_of_all_minibatches(as_dataset: bool) -> None:
    x, y = regression_data(96)
    x = x * 3 + 1
    model = _normalised()
    model.compile(optimizer=kg.WeightAveraging("sgd"), loss="mse", jit_compile=JIT)
    model.fit(x, y, batch_size=32, verbose=0)
    batches = [x[:32], x[32:64], x[64:]]
    given = [(batch, None) for batch in batches] if as_dataset else x
    assert kg.update_batch_norm(model, given, batch_size=32) == 3
    peer = torch.nn.BatchNorm1d(5)
    torch.optim.swa_utils.update_bn([torch.tensor(b) for b in batches], peer)
    layer = model.layers[0].layers[0]
    assert layer.momentum == 0.99
    mean, variance = values([layer.moving_mean, layer.moving_variance])
    np.testing.assert_allclose(mean, peer.running_mean.numpy(), rtol=1e-5, atol=1e-6)
    # Torch's variance is the unbiased one.
    np.testing.assert_allclose(variance, peer.running_var.numpy() * 31 / 32, rtol=1e-5)


def test_batch_norm_is_left_alone_where_there_is_none_and_nothing_is_refused() -> None:
    x, _ = regression_data()
    assert kg.update_batch_norm(network(), x) == 0
    with pytest.raises(ValueError, match="no minibatch"):
        kg.update_batch_norm(_normalised(), x[:0])
    with pytest.raises(ValueError, match="received int"):
        kg.update_batch_norm(_normalised(), 3)


# ---------------------------------------------------------------------- Cautious


def test_cautious_leaves_out_what_goes_uphill() -> None:
    optimizer = kg.Cautious(kg.SGD(0.1, momentum=0.9))
    path = train(optimizer, 6)
    before = path[-2]
    gs = gradients(before, 5)
    for w, old, g in zip(path[-1], before, gs, strict=True):
        assert np.all((w - old) * g <= 0)
        assert 0 < np.mean(w == old) < 0.9


def test_cautious_judges_by_the_mean_gradient_of_a_real_step() -> None:
    def minibatches(number: int) -> list[list[np.ndarray]]:
        return [gradients(start_weights(), 2 * number + half) for half in (0, 1)]

    def path(make: Callable[[], Any], *, parts: bool) -> list:
        optimizer, found = kg.Cautious(make()), []
        ws = [keras.Variable(w) for w in start_weights()]
        for number in range(5):
            a, b = minibatches(number)
            mean = [(p + q) / 2 for p, q in zip(a, b, strict=True)]
            for gs in (a, b) if parts else (mean,):
                optimizer.apply([keras.ops.convert_to_tensor(g) for g in gs], ws)
            found.append(values(ws))
        return found

    accumulated = path(lambda: kg.SGD(0.1, momentum=0.9, gradient_accumulation_steps=2), parts=True)
    assert_close(accumulated, path(lambda: kg.SGD(0.1, momentum=0.9), parts=False), 1e-6)


def test_a_group_s_factor_scales_the_average_and_the_weights_alike() -> None:
    """Both y and z take each step; scaling that of y alone would tear x off them."""
    half = {"": {"learning_rate": 0.5}}
    grouped = train(kg.ScheduleFreeSGD(0.2, groups=half), 6, evaluated=True)
    assert_close(grouped, train(kg.ScheduleFreeSGD(0.1), 6, evaluated=True), 1e-6)
