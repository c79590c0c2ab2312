"""Models: three small ones, as users train them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import keras
import numpy as np
from keras import layers

TOKENS, LENGTH = 500, 32


@dataclass(frozen=True)
class Training:
    """A model and its data.

    Args:
        title: What tables call it.
        build: Makes the model, not compiled.
        inputs: Shape of one sample.
        outputs: Shape of one sample's labels.
        classes: Labels are below it.
        steps: Minibatches of one measured `fit`.
    """

    title: str
    build: Callable[[], keras.Model]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    classes: int
    steps: int

    def data(self, batch_size: int) -> tuple[np.ndarray, np.ndarray]:
        """Synthetic samples and labels, the same for everyone."""
        rng = np.random.default_rng(0)
        count = self.steps * batch_size
        y = rng.integers(self.classes, size=(count, *self.outputs)).astype("int32")
        if self.inputs == self.outputs:
            return rng.integers(self.classes, size=(count, *self.inputs)).astype("int32"), y
        return rng.normal(size=(count, *self.inputs)).astype("float32"), y


def mlp() -> keras.Model:
    """Five hidden layers of 256 units after the first."""
    x = inputs = keras.Input((100,))
    for _ in range(6):
        x = layers.Dense(256, activation="relu")(x)
    return keras.Model(inputs, layers.Dense(10)(x))


def cnn() -> keras.Model:
    """Seven convolutions, each with a normalisation."""
    x = inputs = keras.Input((16, 16, 3))
    for filters, stride in ((16, 1), (16, 1), (32, 2), (32, 1), (48, 2), (48, 1), (64, 2)):
        x = layers.Conv2D(filters, 3, stride, padding="same")(x)
        x = layers.Activation("relu")(layers.BatchNormalization()(x))
    x = layers.Dense(384, activation="relu")(layers.GlobalAveragePooling2D()(x))
    return keras.Model(inputs, layers.Dense(10)(x))


def transformer() -> keras.Model:
    """Four layers of width 96."""
    inputs = keras.Input((LENGTH,), dtype="int32")
    x = layers.Embedding(TOKENS, 96)(inputs)
    for _ in range(4):
        y = layers.LayerNormalization()(x)
        x = x + layers.MultiHeadAttention(4, 24)(y, y, use_causal_mask=True)
        y = layers.Dense(384, activation="relu")(layers.LayerNormalization()(x))
        x = x + layers.Dense(96)(y)
    return keras.Model(inputs, layers.Dense(TOKENS)(x))


TRAININGS = {
    "mlp": Training("MLP", mlp, (100,), (), 10, steps=80),
    "cnn": Training("CNN", cnn, (16, 16, 3), (), 10, steps=24),
    "transformer": Training("transformer", transformer, (LENGTH,), (LENGTH,), TOKENS, steps=12),
}
