"""Full passes over the dataset of bind: what they compute, when, and what they refuse."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np
import pytest
from keras import ops

import keras_gradopt as kg
from tests.keras_gradopt import logistic
from tests.keras_gradopt.problems import network, regression_data, values

JIT = keras.backend.backend() == "jax"


class Batches(keras.utils.PyDataset):
    """Arrays, cut into minibatches."""

    def __init__(self, *arrays: np.ndarray, size: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.arrays, self.size, self.finished = arrays, size, 0

    def __len__(self) -> int:
        return math.ceil(len(self.arrays[0]) / self.size)

    def __getitem__(self, index: int) -> tuple:
        part = slice(index * self.size, (index + 1) * self.size)
        return tuple(a[part] for a in self.arrays)

    def on_epoch_end(self) -> None:
        self.finished += 1


def tf_data(*arrays: np.ndarray, size: int) -> Any:
    import tensorflow as tf

    return tf.data.Dataset.from_tensor_slices(arrays).batch(size)


def loader(*arrays: np.ndarray, size: int) -> Any:
    import torch

    tensors = torch.utils.data.TensorDataset(*(torch.tensor(a) for a in arrays))
    return torch.utils.data.DataLoader(tensors, batch_size=size)


def arrays(*parts: np.ndarray, size: int) -> Any:
    del size
    return parts


def with_full_gradient(dataset: Any, *, batch_size: int, **loss: Any) -> keras.Model:
    """A logistic model after the pass before its first step, at rate 0."""
    model = logistic.model(kg.SVRG(0.0), dataset)
    if loss:
        model.compile(
            kg.SVRG(0.0),
            loss=keras.losses.BinaryCrossentropy(from_logits=True, **loss),
            jit_compile=False,
        )
    x, y = logistic.data()
    model.train_on_batch(x[:batch_size], y[:batch_size])
    return model


def full_gradient(model: keras.Model) -> list[np.ndarray]:
    """What the last full pass found."""
    return [np.array(ops.convert_to_numpy(own[1])) for own in model.optimizer._slots]


@pytest.mark.parametrize("make", [arrays, Batches, tf_data, loader])
def test_it_is_the_gradient_of_the_mean_loss_whatever_holds_the_data(make: Any) -> None:
    """With 64 examples in minibatches of 24, of which the last holds 16."""
    x, y = logistic.data()
    model = with_full_gradient(make(x, y, size=24), batch_size=24)
    expected = logistic.gradient(logistic.start(), x, y)
    for a, e in zip(full_gradient(model), expected, strict=True):
        np.testing.assert_allclose(a, e, rtol=1e-5, atol=1e-6)
    assert float(ops.convert_to_tensor(model.optimizer.evaluations)) == 3 + 2


def weighted(ws: list, x: np.ndarray, y: np.ndarray, weights: np.ndarray) -> list[np.ndarray]:
    """The gradient of the weighted sum of losses, and of the penalty."""
    total: list[Any] = [0.0, 0.0]
    for one, label, weight in zip(x, y, weights, strict=True):
        gs = logistic.gradient(ws, one[None], label[None])
        total = [total[0] + weight * (gs[0] - logistic.DECAY * ws[0]), total[1] + weight * gs[1]]
    return [total[0] + logistic.DECAY * ws[0], total[1]]


@pytest.mark.parametrize("reduction", ["sum_over_batch_size", "mean_with_sample_weight", "sum"])
def test_reductions_and_sample_weights_are_understood(reduction: str) -> None:
    x, y = logistic.data()
    weights = np.linspace(0.1, 2.0, len(x)).astype("float32")
    model = with_full_gradient((x, y, weights), batch_size=24, reduction=reduction)
    divisor = {
        "sum_over_batch_size": len(x),
        "mean_with_sample_weight": weights.sum(dtype="float64"),
        # The mean of three minibatches.
        "sum": 3,
    }[reduction]
    expected = weighted(logistic.start(), x, y, weights.astype("float64") / divisor)
    for a, e in zip(full_gradient(model), expected, strict=True):
        np.testing.assert_allclose(a, e, rtol=2e-5, atol=1e-6)


def test_arrays_and_a_pydataset_train_alike() -> None:
    x, y = regression_data()
    paths = []
    for dataset in ((x, y), Batches(x, y, size=16)):
        model = kg.bind(network(batch_norm=True), dataset=dataset)
        model.compile(kg.SVRG(0.05, 6), loss="mse", jit_compile=JIT)
        model.fit(x, y, epochs=4, batch_size=16, shuffle=False, verbose=0)
        paths.append(values(model.variables))
    for a, b in zip(*paths, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-7)


def test_fit_and_the_passes_may_share_one_dataset() -> None:
    """Passes do not tell it that an epoch has ended, which shuffles many datasets."""
    x, y = regression_data()
    finished = []
    for optimizer in (kg.SARAH(0.02, 3), "sgd"):
        dataset = Batches(x, y, size=16)
        model = kg.bind(network(), dataset=dataset)
        model.compile(optimizer, loss="mse", jit_compile=JIT)
        losses = model.fit(dataset, epochs=3, verbose=0).history["loss"]
        assert losses[-1] < losses[0]
        finished.append(dataset.finished)
    assert finished[0] == finished[1]


def test_nothing_of_the_model_moves_in_a_pass_but_its_random_draws() -> None:
    x, y = regression_data()
    model = kg.bind(network(dropout=0.3, batch_norm=True), dataset=(x, y))
    model.compile(kg.SVRG(0.0), loss="mse", jit_compile=JIT)
    before = {v.path: a for v, a in zip(model.variables, values(model.variables), strict=True)}
    model.train_on_batch(x[:16], y[:16])
    plain = network(dropout=0.3, batch_norm=True)
    plain.compile(kg.SGD(0.0), loss="mse", jit_compile=JIT)
    plain.train_on_batch(x[:16], y[:16])
    drawn = 0
    for v, theirs in zip(model.variables, values(plain.variables), strict=True):
        (ours,) = values([v])
        if v.name == "seed_generator_state":
            # A draw for each of four minibatches, and the step's own.
            np.testing.assert_array_equal(ours - before[v.path], [0, 5])
            drawn += 1
        else:
            np.testing.assert_allclose(ours, theirs, rtol=1e-6, atol=1e-7)
    assert drawn == 1


@pytest.mark.parametrize("seed", [1, None])
def test_minibatches_of_a_pass_have_masks_of_their_own(seed: int | None) -> None:
    """The same examples twice: with one mask for both the mean would be a minibatch's gradient."""
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(4, 32)).astype("float32"), np.ones((4, 1), "float32")
    layers = [keras.layers.Dropout(0.5, seed=seed), keras.layers.Dense(1, use_bias=False)]
    model = keras.Sequential([keras.Input((32,)), *layers])
    kg.bind(model, dataset=Batches(np.concatenate([x, x]), np.concatenate([y, y]), size=4))
    # The prediction is 0 and the loss' slope the same for all: only masks make a difference.
    model.trainable_variables[0].assign(np.zeros((32, 1)))
    model.compile(kg.SVRG(0.0), loss="mse", jit_compile=JIT)
    model.train_on_batch(x, y)
    (g,) = full_gradient(model)
    # Of one example each entry of the mean over masks is 0, a half or a whole of its largest.
    np.testing.assert_array_less(np.abs(g), np.abs(4 * x).mean(axis=0)[:, None] + 1e-6)
    model = kg.bind(model, dataset=(x, y))
    model.compile(kg.SVRG(0.0), loss="mse", jit_compile=JIT)
    model.train_on_batch(x, y)
    (once,) = full_gradient(model)
    assert np.abs(g - once).max() > 1e-2


@pytest.mark.skipif(
    keras.backend.backend() == "torch", reason="Keras on torch refuses steps_per_execution"
)
def test_passes_come_when_they_are_due_under_steps_per_execution() -> None:
    x, y = regression_data()
    model = kg.bind(network(), dataset=(x, y))
    model.compile(
        kg.SVRG(0.05, 4), loss="mse", jit_compile=JIT, steps_per_execution=2, run_eagerly=False
    )
    model.fit(x, y, epochs=3, batch_size=8, verbose=0)
    # 24 steps of two gradients, and six passes over eight minibatches.
    assert float(ops.convert_to_tensor(model.optimizer.evaluations)) == 24 * 2 + 6 * 8


def test_another_loss_is_another_pass() -> None:
    x, y = logistic.data()
    model = logistic.model(kg.SVRG(0.0), (x, y))
    found = []
    for loss in ("mse", "mae"):
        model.compile(kg.SVRG(0.0), loss=loss, jit_compile=JIT)
        model.fit(x, y, epochs=1, batch_size=16, verbose=0)
        found.append(full_gradient(model))
    assert np.abs(found[0][0] - found[1][0]).max() > 1e-2


def test_eagerly_run_models_have_their_passes() -> None:
    x, y = logistic.data()
    model = logistic.model(kg.SVRG(0.0), (x, y))
    model.compile(kg.SVRG(0.0), loss="mse", run_eagerly=True)
    model.fit(x, y, epochs=1, batch_size=32, verbose=0)
    w, b = logistic.start()
    expected = 2 * x.T.astype("float64") @ (x @ w + b - y) / len(x) + logistic.DECAY * w
    np.testing.assert_allclose(full_gradient(model)[0], expected, rtol=1e-5, atol=1e-6)


def test_a_model_that_is_not_built_is_built_by_its_first_batch() -> None:
    x, y = regression_data()
    for train in ("fit", "train_on_batch"):
        model = kg.bind(keras.Sequential([keras.layers.Dense(1)]), dataset=(x, y))
        model.compile(kg.SVRG(0.05), loss="mse", jit_compile=JIT)
        getattr(model, train)(x, y)
        assert np.abs(full_gradient(model)[0]).max() > 0


def test_a_scaled_loss_that_overflows_is_scaled_less() -> None:
    """At Keras' first scale of 2^15 float16 gradients beyond 2 are infinite."""
    x, y = regression_data()
    found = []
    for policy in ("float32", "mixed_float16"):
        keras.config.set_dtype_policy(policy)
        model = kg.bind(network(), dataset=(x, 30 * y))
        model.compile(kg.SVRG(0.0), loss="mse", jit_compile=JIT)
        model.fit(x, 30 * y, epochs=1, batch_size=64, verbose=0)
        rule = getattr(model.optimizer, "inner_optimizer", model.optimizer)
        found.append([np.array(ops.convert_to_numpy(own[1])) for own in rule._slots])
    assert max(np.abs(g).max() for g in found[0]) > 2
    for a, e in zip(found[1], found[0], strict=True):
        # float16 keeps 11 bits of each of 64 summands.
        np.testing.assert_allclose(a, e, atol=1e-2 * np.abs(e).max())


def test_a_full_gradient_that_is_not_finite_is_told_and_done_without() -> None:
    x, y = logistic.data()
    broken = x.copy()
    broken[3, 0] = np.nan
    model = logistic.model(kg.SVRG(0.3), (broken, y))
    with pytest.warns(UserWarning, match="gradient over the whole dataset is not finite. SVRG"):
        ours = logistic.fitted(model, 1)
    for a, e in zip(ours, logistic.fitted(logistic.model(kg.SGD(0.3)), 1), strict=True):
        np.testing.assert_allclose(a, e, rtol=1e-5, atol=1e-6)


# ---------------------------------------------------------------------- what is refused


def test_without_a_dataset_it_says_how_to_bind() -> None:
    x, y = regression_data()
    says = re.escape("keras_gradopt.bind(model, dataset=(x, y))")
    bound = kg.bind(network())
    bound.compile(kg.Lookahead(kg.SARAH(0.1)), loss="mse", jit_compile=JIT)
    before = values(bound.trainable_variables)
    for train in (bound.fit, bound.train_on_batch):
        with pytest.raises(RuntimeError, match=f"SARAH needs the gradient .* {says}"):
            train(x, y)
    # It was refused before JAX took the weights.
    for a, b in zip(values(bound.trainable_variables), before, strict=True):
        np.testing.assert_array_equal(a, b)
    unbound = network()
    unbound.compile(kg.SVRG(0.1), loss="mse", jit_compile=JIT)
    with pytest.raises(RuntimeError, match=f"SVRG .* needs a bound model. Call {says}"):
        unbound.fit(x, y, verbose=0)


def test_other_optimizers_do_without_the_dataset() -> None:
    x, y = regression_data()
    dataset = Batches(x, y, size=16)
    model = kg.bind(network(), dataset=dataset)
    for optimizer in ("adam", kg.SAM("sgd"), kg.STORM(0.05)):
        model.compile(optimizer, loss="mse", jit_compile=JIT)
        assert np.isfinite(model.fit(x, y, verbose=0).history["loss"]).all()


def generator() -> Iterator[tuple]:
    yield regression_data()


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (generator, "can be iterated once only: received generator"),
        (lambda: iter([regression_data()]), "can be iterated once only: received list_iterator"),
        (lambda: list(regression_data()), "dataset must be a tuple .* received list"),
        (lambda: regression_data()[0], "dataset must be a tuple .* received ndarray"),
        (lambda: 64, "dataset must be a tuple .* received int"),
        (lambda: tf_data(*regression_data(), size=8).repeat(), "dataset has no end"),
    ],
)
def test_what_is_no_dataset_is_refused_when_it_is_bound(make: Any, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        kg.bind(network(), dataset=make())


@pytest.mark.parametrize(
    "weights", [{"sample_weight": np.ones(64)}, {"class_weight": {0: 1.0, 1: 2.0}}]
)
def test_weights_that_the_dataset_does_not_have_are_refused(weights: dict[str, Any]) -> None:
    x, y = logistic.data()
    model = logistic.model(kg.SVRG(0.1), (x, y))
    with pytest.raises(ValueError, match=rf"fit got {next(iter(weights))}, which the dataset"):
        model.fit(x, y, verbose=0, **weights)


def test_an_empty_dataset_is_refused() -> None:
    x, y = logistic.data()
    model = logistic.model(kg.SVRG(0.1), Batches(x[:0], y[:0], size=8))
    with pytest.raises(ValueError, match="gave 0 minibatches"):
        model.fit(x, y, verbose=0)
