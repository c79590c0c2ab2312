"""Models and data of every kind that Keras trains, small, for the recommender's tests."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import keras
import numpy as np
from keras import ops

ROWS = 96


@dataclass(frozen=True)
class Kind:
    """One training as a Keras user has it.

    Attributes:
        model: Gives the model, with fixed first weights.
        x, y: The data.
        compiled: What `compile` takes beside the optimizer.
        weight: What `fit` takes as `sample_weight`.
    """

    model: Callable[[], keras.Model]
    x: Any
    y: Any = None
    compiled: dict[str, Any] = field(default_factory=dict)
    weight: Any = None


def _fixed(net: keras.Model, seed: int = 5) -> keras.Model:
    rng = np.random.default_rng(seed)
    for v in net.trainable_variables:
        if v.ndim > 1:
            v.assign(rng.normal(size=v.shape) * 0.4)
    return net


RNG = np.random.default_rng(0)
X = RNG.normal(size=(ROWS, 4)).astype("float32")
NUMBER = np.sin(X[:, :1]) + 0.5 * X[:, 1:2]
LABEL = (X[:, 0] + X[:, 2] > 0).astype("int32") + (X[:, 3] > 0)


def two_outputs() -> keras.Model:
    inputs = keras.Input((4,))
    hidden = keras.layers.Dense(8, activation="tanh")(inputs)
    number = keras.layers.Dense(1, name="number")(hidden)
    label = keras.layers.Dense(3, name="label")(hidden)
    return _fixed(keras.Model(inputs, [number, label]))


def two_named_outputs() -> keras.Model:
    net = two_outputs()
    number, label = net.outputs
    return keras.Model(net.inputs[0], {"size": number, "class": label})


TOKENS = RNG.integers(1, 7, (ROWS, 6)) * (np.arange(6) < RNG.integers(2, 7, (ROWS, 1)))
NEXT = (2 * TOKENS + 1) % 5


def masked_sequence() -> keras.Model:
    layers = [keras.Input((6,), dtype="int32"), keras.layers.Embedding(7, 4, mask_zero=True)]
    layers += [keras.layers.SimpleRNN(5, return_sequences=True), keras.layers.Dense(5)]
    return _fixed(keras.Sequential(layers))


class Sampling(keras.layers.Layer):
    """Draws from a normal distribution, and adds its divergence from the standard one."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.draws = keras.random.SeedGenerator(1)

    def call(self, inputs: Any) -> Any:
        mean, log_variance = ops.split(inputs, 2, axis=-1)
        divergence = ops.square(mean) + ops.exp(log_variance) - log_variance - 1
        self.add_loss(0.05 * ops.mean(ops.sum(divergence, axis=-1)))
        noise = keras.random.normal(ops.shape(mean), seed=self.draws)
        return mean + ops.exp(0.5 * log_variance) * noise


class Reconstruction(keras.layers.Layer):
    """Adds the squared error of a reconstruction, and passes it on."""

    def call(self, inputs: Any) -> Any:
        original, again = inputs
        self.add_loss(ops.mean(ops.square(original - again)))
        return again


def variational_autoencoder() -> keras.Model:
    inputs = keras.Input((4,))
    code = Sampling()(keras.layers.Dense(4)(inputs))
    return _fixed(keras.Model(inputs, Reconstruction()([inputs, keras.layers.Dense(4)(code)])))


def normalised() -> keras.Model:
    layers = [keras.Input((4,)), keras.layers.Dense(8), keras.layers.BatchNormalization()]
    layers += [keras.layers.Dropout(0.3, seed=3), keras.layers.Dense(1)]
    return _fixed(keras.Sequential(layers))


class Scaled(keras.layers.Layer):
    """A custom layer with a weight, a penalty on it, and no registration."""

    def build(self, shape: Any) -> None:
        self.scale = self.add_weight(shape=shape[-1:], initializer="ones", regularizer="l2")

    def call(self, inputs: Any) -> Any:
        return ops.tanh(inputs * self.scale)


def custom_layer() -> keras.Model:
    layers = [keras.Input((4,)), Scaled(), keras.layers.Dense(1)]
    return _fixed(keras.Sequential(layers))


class Robust(keras.Model):
    """A subclass that computes its loss itself."""

    def __init__(self, width: int = 6, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.width = width
        self.hidden = keras.layers.Dense(width, activation="tanh")
        self.last = keras.layers.Dense(1)

    def call(self, inputs: Any) -> Any:
        return self.last(self.hidden(inputs))

    def compute_loss(
        self, x: Any = None, y: Any = None, y_pred: Any = None, sample_weight: Any = None
    ) -> Any:
        return ops.mean(ops.sqrt(1 + ops.square(ops.cast(y, y_pred.dtype) - y_pred)))

    def get_config(self) -> dict[str, Any]:
        return {"width": self.width}


def own_loss() -> keras.Model:
    net = Robust()
    net(X[:2])
    return _fixed(net)


def absolute(y_true: Any, y_pred: Any) -> Any:
    """A caller's own loss function."""
    return ops.mean(ops.abs(y_true - y_pred), axis=-1)


KINDS = {
    "two outputs": Kind(
        two_outputs,
        X,
        [NUMBER, LABEL],
        {
            "loss": {
                "number": absolute,
                "label": keras.losses.SparseCategoricalCrossentropy(from_logits=True),
            },
            "loss_weights": {"number": 2.0, "label": 0.25},
        },
    ),
    "a dict of outputs": Kind(
        two_named_outputs,
        X,
        {"class": LABEL, "size": NUMBER},
        {
            "loss": {
                "class": keras.losses.SparseCategoricalCrossentropy(from_logits=True),
                "size": "mse",
            },
        },
        {"class": 1.0 + (LABEL == 1), "size": np.ones(ROWS)},
    ),
    "a masked sequence": Kind(
        masked_sequence,
        TOKENS,
        NEXT,
        {"loss": keras.losses.SparseCategoricalCrossentropy(from_logits=True)},
    ),
    "a variational autoencoder": Kind(variational_autoencoder, X),
    "sample weights": Kind(custom_layer, X, NUMBER, {"loss": "mse"}, np.linspace(0, 3, ROWS)),
    "normalisation and dropout": Kind(normalised, X, NUMBER, {"loss": "huber"}),
    "a loss of the model's own": Kind(own_loss, X, NUMBER),
}
