"""Losses as negative log-likelihoods: their curvature, and gradients at targets drawn from them."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import keras
from keras import ops
from keras.src.backend.common.masking import get_keras_mask
from keras.src.losses.loss import reduce_weighted_values

from keras_gradopt import backend

Tensor = Any
# From a shape and the number of the draw to standard normal numbers.
Normal = Callable[[tuple[int, ...], int], Tensor]
# Probabilities and rates below it count as it, as in Keras' own losses.
_LEAST = 1e-7


def score(loss: Any, y_pred: Tensor, noise: Tensor, coefficients: Tensor) -> Tensor:
    r"""One random gradient of a sum of log-likelihoods, as if targets came from the model.

    Targets drawn from the model's own predictions give gradients of mean zero, whose covariance is
    the Fisher information; it is also the Hessian of the loss by the outputs, since all these
    losses are negative log-likelihoods of exponential families. Here random signs $\epsilon$ give
    vectors of the same covariance without drawing targets.

    Args:
        loss: A loss that `is_known`.
        y_pred: Outputs, float32, shape (..., classes or features).
        noise: Random signs of that shape.
        coefficients: Per term (without the last axis), its weight $c$ in the loss.

    Returns:
        The shape of `y_pred`: mean zero, covariance $c H$, independent between terms.
    """
    fn, from_logits = loss.fn, _options(loss).get("from_logits", False)
    c = ops.expand_dims(ops.sqrt(coefficients), -1)
    if fn in _CATEGORICAL:
        if not from_logits:
            return c * noise / ops.sqrt(ops.maximum(y_pred, _LEAST))
        root = ops.sqrt(ops.softmax(y_pred))
        return c * root * (noise - root * ops.sum(root * noise, axis=-1, keepdims=True))
    # The other losses are means over the features.
    c = c / ops.sqrt(ops.cast(ops.shape(y_pred)[-1], "float32"))
    if fn is keras.losses.mean_squared_error:
        return c * 2**0.5 * noise
    if fn is keras.losses.poisson:
        return c * noise / ops.sqrt(ops.maximum(y_pred, _LEAST))
    p = ops.clip(ops.sigmoid(y_pred) if from_logits else y_pred, _LEAST, 1 - _LEAST)
    deviation = ops.sqrt(p * (1 - p))
    return c * noise * (deviation if from_logits else 1 / deviation)


_CATEGORICAL = (
    keras.losses.categorical_crossentropy,
    keras.losses.sparse_categorical_crossentropy,
)
_KNOWN = (
    *_CATEGORICAL,
    keras.losses.mean_squared_error,
    keras.losses.poisson,
    keras.losses.binary_crossentropy,
)


def _options(loss: Any) -> dict[str, Any]:
    return getattr(loss, "_fn_kwargs", {})


def is_known(loss: Any) -> bool:
    """Whether a loss object is a negative log-likelihood that `score` knows."""
    as_keras_does = type(loss).call is keras.losses.MeanSquaredError.call
    options = _options(loss)
    return (
        as_keras_does
        and loss.fn in _KNOWN
        and options.get("axis", -1) == -1
        and options.get("ignore_class") is None
    )


def unknown(model: keras.Model) -> list[str]:
    """What of a compiled model's loss is no known likelihood, in words; empty if all is."""
    compiled = getattr(model, "_compile_loss", None)
    if type(model).compute_loss is not keras.Model.compute_loss:
        return [f"{type(model).__name__}.compute_loss"]
    if compiled is None:
        return ["a loss by add_loss alone"]
    if not compiled.built:
        return []
    return [part.name for part in compiled._flat_losses if not is_known(part.loss)]


def pseudo_loss(
    model: keras.Model,
    y: Any,
    y_pred: Any,
    sample_weight: Any,
    noise: Normal,
) -> Tensor:
    """A scalar whose gradient at the outputs is `score` for each of the model's losses.

    Args:
        model: Compiled with losses that are known.
        y: Targets; only their structure counts.
        y_pred: Outputs.
        sample_weight: As the model's loss takes it.
        noise: `noise(shape, number)`, standard normal numbers; the number tells the losses apart.
    """
    with _replaced_losses(model, noise):
        return model._compile_loss(y, y_pred, sample_weight)


@contextlib.contextmanager
def _replaced_losses(model: keras.Model, noise: Normal) -> Iterator[None]:
    compiled = model._compile_loss
    before = compiled._flat_losses
    compiled._flat_losses = [
        part._replace(loss=_along_score(part.loss, part.loss_weights, number, noise))
        # The weight is in the terms' coefficients, under their root.
        ._replace(loss_weights=None)
        for number, part in enumerate(before)
    ]
    try:
        yield
    finally:
        compiled._flat_losses = before


def _along_score(loss: Any, weight: Any, number: int, noise: Normal) -> Callable[..., Tensor]:
    def along(y_true: Any, y_pred: Tensor, sample_weight: Any = None) -> Tensor:
        del y_true
        mask = get_keras_mask(y_pred)
        y_pred = ops.cast(ops.convert_to_tensor(y_pred), "float32")
        fixed = ops.stop_gradient(y_pred)

        def reduced(terms: list[Tensor]) -> Tensor:
            value = reduce_weighted_values(
                terms[0], sample_weight, mask, loss.reduction, dtype="float32"
            )
            # Without reduction Keras differentiates the sum.
            return ops.sum(value) * (1.0 if weight is None else weight)

        # The reduction is linear in the terms: its gradient holds their coefficients.
        _, (coefficients,) = backend.value_and_grad(reduced, [ops.ones_like(fixed[..., 0])])
        signs = ops.sign(noise(ops.shape(fixed), number))
        found = score(loss, fixed, signs, ops.maximum(coefficients, 0.0))
        return ops.sum(y_pred * ops.stop_gradient(found))

    return along


def expecting(loss: Any) -> Callable | None:
    """The loss with the model's own expectation in the place of the targets.

    Its Hessian in the outputs is that of the Fisher information, for outputs that are logits as for
    probabilities: the losses known here are linear in their targets.

    Args:
        loss: A Keras loss.

    Returns:
        `loss(y_true, y_pred, sample_weight)` that reads no `y_true`; None for a loss that is not
        known.
    """
    if not is_known(loss):
        return None
    fn, from_logits = loss.fn, _options(loss).get("from_logits", False)
    if fn in _CATEGORICAL:
        twin = keras.losses.CategoricalCrossentropy(from_logits, reduction=loss.reduction)
    elif fn is keras.losses.binary_crossentropy:
        twin = keras.losses.BinaryCrossentropy(from_logits, reduction=loss.reduction)
    else:
        twin = loss

    def expected(y: Tensor) -> Tensor:
        if fn in _CATEGORICAL:
            return ops.softmax(y) if from_logits else y / ops.sum(y, axis=-1, keepdims=True)
        return ops.sigmoid(y) if from_logits else y

    def with_targets(y_true: Tensor, y_pred: Tensor, sample_weight: Tensor | None = None) -> Tensor:
        del y_true
        return twin(ops.stop_gradient(expected(ops.stop_gradient(y_pred))), y_pred, sample_weight)

    return with_targets


def counting(loss: Any) -> Callable:
    """A loss whose gradient in each output is what its example counts in the mean."""
    return _SumOfOutputs(reduction=loss.reduction)


class _SumOfOutputs(keras.losses.Loss):
    def call(self, y_true: Tensor, y_pred: Tensor) -> Tensor:
        del y_true
        return ops.sum(y_pred, axis=-1)


def is_least_squares(loss: Any) -> bool:
    """Whether a Keras loss is a mean of squares."""
    return is_known(loss) and loss.fn is keras.losses.mean_squared_error
