"""Problems on which methods that look at the curvature are meant to pay."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from keras import ops
from sklearn.datasets import load_digits


@dataclasses.dataclass(frozen=True)
class Problem:
    """A model to be made and the data that it is trained on.

    Attributes:
        title: What it is, in words.
        model: Makes the model, with the same weights each time.
        loss: Its loss.
        x: Inputs.
        y: Targets.
        batch_size: Examples of a minibatch; all of them where the method sees the whole data.
        steps: Steps of Adam that the others are measured against.
    """

    title: str
    model: Callable[[], keras.Model]
    loss: Any
    x: np.ndarray
    y: np.ndarray
    batch_size: int
    steps: int

    @property
    def is_whole(self) -> bool:
        """Whether each step sees all data."""
        return self.batch_size >= len(self.x)


def problems() -> dict[str, Problem]:
    """All of them, by name."""
    return {
        "logistic": logistic(),
        "ill_conditioned": ill_conditioned(),
        "physics": physics(),
        "autoencoder": autoencoder(),
    }


def logistic() -> Problem:
    """Multinomial logistic regression of scanned digits."""
    digits = load_digits()
    x = (digits.data / 16.0).astype("float32")

    def model() -> keras.Model:
        penalty = keras.regularizers.L2(1e-5)
        dense = keras.layers.Dense(10, kernel_initializer="zeros", kernel_regularizer=penalty)
        return keras.Sequential([keras.Input((64,)), dense])

    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    title = "Logistic regression, scikit-learn's digits, 650 weights, whole data"
    return Problem(title, model, loss, x, digits.target.astype("int32"), len(x), 2000)


def ill_conditioned() -> Problem:
    """Linear regression on features of very different sizes."""
    rng = np.random.default_rng(0)
    basis = np.linalg.qr(rng.normal(size=(400, 40)))[0] * np.sqrt(400)
    turn = np.linalg.qr(rng.normal(size=(40, 40)))[0]
    x = (basis * np.logspace(0, -2, 40)) @ turn
    y = x @ rng.normal(size=(40, 1)) + 1e-3 * rng.normal(size=(400, 1))

    def model() -> keras.Model:
        dense = keras.layers.Dense(1, use_bias=False, kernel_initializer="zeros")
        return keras.Sequential([keras.Input((40,)), dense])

    title = "Linear regression of condition number 10 000, 40 weights, whole data"
    return Problem(title, model, "mse", x.astype("float32"), y.astype("float32"), 400, 2000)


class Shift(keras.layers.Layer):
    """A bias for the value, which its derivatives do not see: shape (examples, 3, units)."""

    def build(self, shape: Any) -> None:
        """One number per unit."""
        self.bias = self.add_weight(shape=(shape[-1],), initializer="zeros", name="bias")

    def call(self, x: Any) -> Any:
        """The input with the bias in its first row."""
        return x + ops.convert_to_tensor([[[1.0], [0.0], [0.0]]]) * self.bias


class TanhJet(keras.layers.Layer):
    """tanh of a value with its first and second derivative: shape (examples, 3, units)."""

    def call(self, x: Any) -> Any:
        """Value and derivatives by the chain rule."""
        a = ops.tanh(x[:, 0])
        slope = 1.0 - a * a
        first = slope * x[:, 1]
        second = slope * x[:, 2] - 2.0 * a * slope * x[:, 1] ** 2
        return ops.stack([a, first, second], axis=1)


class Curvature(keras.layers.Layer):
    """u'' of u = x (1 - x) n(x), which is 0 at both ends."""

    def call(self, inputs: Any) -> Any:
        """The second derivative by the product rule."""
        x, jet = inputs
        n, first, second = jet[:, 0], jet[:, 1], jet[:, 2]
        return x * (1.0 - x) * second + 2.0 * (1.0 - 2.0 * x) * first - 2.0 * n


class Jet(keras.layers.Layer):
    """An input with its derivatives by itself: (x, 1, 0)."""

    def call(self, x: Any) -> Any:
        """Three rows from one."""
        return ops.stack([x, ops.ones_like(x), ops.zeros_like(x)], axis=1)


def physics() -> Problem:
    """A network that solves Poisson's equation on (0, 1) by its residual."""
    x = np.linspace(0, 1, 102)[1:-1, None]
    # u = sin(pi x) + sin(4 pi x) / 2
    y = -(np.pi**2) * np.sin(np.pi * x) - 8 * np.pi**2 * np.sin(4 * np.pi * x)

    def model() -> keras.Model:
        inputs = keras.Input((1,))
        h = Jet()(inputs)
        for seed in range(3):
            start = keras.initializers.GlorotNormal(seed)
            h = keras.layers.Dense(24, use_bias=False, kernel_initializer=start)(h)
            h = TanhJet()(Shift()(h))
        last = keras.initializers.GlorotNormal(3)
        h = keras.layers.Dense(1, use_bias=False, kernel_initializer=last)(h)
        return keras.Model(inputs, Curvature()([inputs, h]))

    title = "Physics-informed network, Poisson's equation, 1 248 weights, whole data"
    return Problem(title, model, "mse", x.astype("float32"), y.astype("float32"), 100, 4000)


def autoencoder() -> Problem:
    """A deep autoencoder of scanned digits."""
    x = (load_digits().data / 16.0).astype("float32")

    def model() -> keras.Model:
        layers: list[Any] = [keras.Input((64,))]
        for seed, units in enumerate((128, 64, 32, 10, 32, 64, 128)):
            start = keras.initializers.GlorotUniform(seed)
            activation = None if units == 10 else "tanh"
            layers.append(keras.layers.Dense(units, activation, kernel_initializer=start))
        start = keras.initializers.GlorotUniform(7)
        layers.append(keras.layers.Dense(64, kernel_initializer=start))
        return keras.Sequential(layers)

    loss = keras.losses.BinaryCrossentropy(from_logits=True)
    title = "Deep autoencoder 64-128-64-32-10-32-64-128-64, digits, minibatches of 599"
    return Problem(title, model, loss, x, x, 599, 1200)
