"""Compiles private copies of models as the caller's training would, and tries their loss."""

from __future__ import annotations

import warnings
from typing import Any

import keras

from recommender.errors import RequestError
from recommender.examples import Examples, take
from recommender.models import complaint, flag_of, forward, has_own_step


def compile_with(model: keras.Model, optimizer: Any, loss: Any, loss_weights: Any) -> None:
    """Compile a private copy of a model.

    Args:
        model: The copy.
        optimizer: None where nothing but the loss is computed.
        loss: In the outputs' structure, or None.
        loss_weights: In the outputs' structure, or None.

    Raises:
        RequestError: The model's class has a `compile` that takes other arguments.
    """
    try:
        model.compile(optimizer=optimizer, loss=loss, loss_weights=loss_weights)
    except TypeError as error:
        raise RequestError(
            f"{type(model).__name__}.compile does not take optimizer, loss and loss_weights: "
            f"{complaint(error)} Probes compile copies of the model, so it must.",
            code="unsupported_model",
        ) from error


class _Loss(keras.Operation):
    """The loss of a minibatch as an operation, so that Keras can trace it without computing it."""

    def __init__(self, model: keras.Model) -> None:
        super().__init__()
        self._model = model

    def call(self, x: Any, y: Any, weight: Any) -> Any:
        """As Keras' trainers compute it."""
        flag = flag_of(self._model.compute_loss, training=False)
        return self._model.compute_loss(x, y, forward(self._model, x), weight, **flag)


def check_computable(model: keras.Model, examples: Examples) -> None:
    """Trace the loss of two examples, as Keras does before the first step of a training.

    What several losses need is made then, before a program is compiled.

    Args:
        model: A compiled private copy.
        examples: Arranged and in trainable types.

    Raises:
        RequestError: With what Keras or the caller's own loss complained about.
    """
    if has_own_step(model):
        return
    try:
        with warnings.catch_warnings():
            # TensorFlow warns of logits that are none; the diagnostics say what to do about them.
            warnings.simplefilter("ignore")
            shape = _loss_shape(model, take(examples, slice(0, 2)))
    except Exception as error:  # a caller's own loss may fail in any way
        raise RequestError(
            f"the loss of two examples cannot be computed: {complaint(error)} Check y, "
            "sample_weight and the loss against the model's outputs.",
            code="loss_failed",
        ) from error
    if shape:
        raise RequestError(
            f"the loss of a minibatch is one number; compute_loss returned shape {shape}. "
            "Average it.",
            code="loss_failed",
        )


def _loss_shape(model: keras.Model, few: Examples) -> tuple[int, ...]:
    """The shape of the loss, traced; computed where tracing fails, as with added losses alone."""
    loss = _Loss(model)
    traced = keras.tree.map_structure(
        lambda v: None if v is None else keras.KerasTensor(v.shape, str(v.dtype)), few
    )
    try:
        return tuple(loss.compute_output_spec(*traced).shape)
    except Exception:  # noqa: BLE001 - added losses are not seen in a trace
        tensors = keras.tree.map_structure(
            lambda v: None if v is None else keras.ops.convert_to_tensor(v), few
        )
        return tuple(loss.call(*tensors).shape)
