"""What TensorFlow and torch have in common: train steps that change variables in place."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


def stateful_train_step(keras_step: Callable, offer: Callable) -> Callable:
    """Wraps Keras' `train_step(data)` so that an Objective surrounds it.

    Args:
        keras_step: The model's own step.
        offer: `offer(trainable, non_trainable, metrics, optimizer, data)` as a context manager;
            None for lists that are to be read from the variables.
    """

    def step(data: Any) -> Any:
        with offer(None, None, None, None, data):
            return keras_step(data)

    return step
