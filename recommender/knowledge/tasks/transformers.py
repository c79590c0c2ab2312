"""Small transformers for sequences of tokens or of numbers."""

from __future__ import annotations

from typing import Any

import keras
from keras import layers

__all__ = ["Positions", "block", "sequence_classifier", "token_model"]


@keras.saving.register_keras_serializable(package="gradopt_tasks")
class Positions(layers.Layer):
    """Adds a learnt vector to each position of (sequences, length, width)."""

    def build(self, input_shape: Any) -> None:
        """Make the table, (length, width)."""
        self.table = self.add_weight(
            shape=tuple(input_shape[1:]),
            initializer=keras.initializers.RandomNormal(stddev=0.02),
            name="table",
        )

    def call(self, inputs: Any) -> Any:
        """The inputs with the table added."""
        return inputs + self.table

    def compute_output_shape(self, input_shape: Any) -> Any:
        """That of the inputs."""
        return input_shape


def block(x: Any, heads: int, *, causal: bool = False, norm_first: bool = True) -> Any:
    """Attention and two dense layers, each added to what came in.

    Args:
        x: (sequences, length, width).
        heads: Attention heads; the width is divided among them.
        causal: Whether a position sees only itself and what is before it.
        norm_first: Layer normalisation before each part, or after each sum as in the first paper.
    """
    width = x.shape[-1]
    y = layers.LayerNormalization(epsilon=1e-5)(x) if norm_first else x
    x = layers.Add()(
        [x, layers.MultiHeadAttention(heads, width // heads)(y, y, use_causal_mask=causal)]
    )
    x = x if norm_first else layers.LayerNormalization(epsilon=1e-5)(x)
    y = layers.LayerNormalization(epsilon=1e-5)(x) if norm_first else x
    x = layers.Add()([x, layers.Dense(width)(layers.Dense(2 * width, activation="gelu")(y))])
    return x if norm_first else layers.LayerNormalization(epsilon=1e-5)(x)


def sequence_classifier(
    inputs: keras.KerasTensor, vectors: Any, outputs: int, *, blocks: int, heads: int, **kind: Any
) -> keras.Model:
    """A model that pools over the positions.

    Args:
        inputs: The model's input.
        vectors: (sequences, length, width), made from the input.
        outputs: Logits.
        blocks: How many, one after another.
        heads: Attention heads of each.
        kind: What else `block` takes.
    """
    x = Positions()(vectors)
    for _ in range(blocks):
        x = block(x, heads, **kind)
    return keras.Model(inputs, layers.Dense(outputs)(layers.GlobalAveragePooling1D()(x)))


def token_model(
    length: int, tokens: int, width: int, *, blocks: int, heads: int, **kind: Any
) -> keras.Model:
    """A language model: at each position the logits of the next token."""
    inputs = keras.Input((length,), dtype="int32")
    x = Positions()(layers.Embedding(tokens, width)(inputs))
    for _ in range(blocks):
        x = block(x, heads, causal=True, **kind)
    return keras.Model(inputs, layers.Dense(tokens)(layers.LayerNormalization(epsilon=1e-5)(x)))
