"""Losses that many tasks share."""

from __future__ import annotations

import keras


def cross_entropy() -> keras.losses.Loss:
    """For class numbers and logits."""
    return keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def binary_cross_entropy() -> keras.losses.Loss:
    """For 0 or 1 and one logit."""
    return keras.losses.BinaryCrossentropy(from_logits=True)


squared_error = keras.losses.MeanSquaredError
