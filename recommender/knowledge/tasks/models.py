"""Dense networks that many tasks share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import keras
from keras import layers

Norm = Literal["batch", "layer"]


def linear(inputs: int, outputs: int = 1, *, start: str = "glorot_uniform") -> keras.Model:
    """One layer: least squares, logistic regression, softmax regression.

    Args:
        inputs: Numbers per row.
        outputs: Numbers predicted per row.
        start: Initialiser of the weights; "zeros" where inputs outnumber rows, since training
            never takes away what the first weights add to directions without data.
    """
    return keras.Sequential(
        [keras.Input((inputs,)), layers.Dense(outputs, kernel_initializer=start)]
    )


def mlp(
    inputs: int,
    units: Sequence[int],
    outputs: int = 1,
    *,
    activation: str = "relu",
    dropout: float = 0.0,
    norm: Norm | None = None,
    norm_inputs: bool = False,
    last: str | None = None,
) -> keras.Model:
    """A plain stack of dense layers; with a dozen of them, the deep plain network.

    Args:
        inputs: Numbers per row.
        units: Of each hidden layer.
        outputs: Numbers predicted per row.
        activation: Of the hidden layers; it stands behind the normalisation.
        dropout: After each hidden layer.
        norm: What normalises before the activation.
        norm_inputs: Whether batch normalisation takes the place of scaled inputs.
        last: Activation of the outputs.
    """
    stack: list[Any] = [keras.Input((inputs,))]
    if norm_inputs:
        stack.append(layers.BatchNormalization())
    for width in units:
        stack += [layers.Dense(width), *_normalised(norm), layers.Activation(activation)]
        if dropout:
            stack.append(layers.Dropout(dropout))
    return keras.Sequential([*stack, layers.Dense(outputs, activation=last)])


def residual_mlp(
    inputs: int,
    width: int,
    blocks: int,
    outputs: int = 1,
    *,
    dropout: float = 0.0,
    norm: Norm | None = None,
) -> keras.Model:
    """Blocks of two dense layers, each added to what it was given.

    Args:
        inputs: Numbers per row.
        width: Of the stream through the blocks.
        blocks: How many.
        outputs: Numbers predicted per row.
        dropout: Between the two layers of a block.
        norm: What normalises at the beginning of a block.
    """
    x = given = keras.Input((inputs,))
    x = layers.Dense(width)(x)
    for _ in range(blocks):
        branch = x
        for layer in _normalised(norm):
            branch = layer(branch)
        branch = layers.Dense(width, activation="relu")(branch)
        if dropout:
            branch = layers.Dropout(dropout)(branch)
        x = layers.Add()([x, layers.Dense(width)(branch)])
    return keras.Model(given, layers.Dense(outputs)(layers.Activation("relu")(x)))


def _normalised(norm: Norm | None) -> list[keras.layers.Layer]:
    if norm == "batch":
        return [layers.BatchNormalization()]
    return [layers.LayerNormalization()] if norm == "layer" else []
