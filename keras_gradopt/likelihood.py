"""Losses as negative log-likelihoods: what a model expects its targets to be, and draws of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
from keras import ops

Tensor = Any
# From a shape and the number of the draw to standard normal numbers.
Normal = Callable[[tuple[int, ...], int], Tensor]


def expecting(loss: Any) -> Callable | None:
    """The loss with the model's own expectation in the place of the targets.

    The Hessian in the outputs is then that of the Fisher information, for outputs that are logits
    as for probabilities: the losses here are linear in their targets.

    Args:
        loss: A Keras loss.

    Returns:
        `loss(y_true, y_pred, sample_weight)` that reads no `y_true`; None for a loss that is no
        likelihood known here.
    """
    return _with_targets(loss, lambda mean, spread: mean)


def sampling(loss: Any, normal: Callable[[tuple[int, ...]], Tensor]) -> Callable | None:
    """The loss with targets drawn from the model's own distribution; None as in `expecting`.

    Classes are drawn as such; elsewhere two moments are all that the Fisher information asks of a
    distribution, so normal numbers of these moments stand in for it.

    Args:
        loss: A Keras loss.
        normal: From a shape to standard normal numbers, others at each call.
    """

    def drawn(mean: Tensor, spread: Tensor | None) -> Tensor:
        noise = ops.cast(normal(ops.shape(mean)), mean.dtype)
        if spread is not None:
            return mean + spread * noise
        # The Gumbel trick, with uniform numbers from normal ones.
        uniform = ops.clip(0.5 * (1.0 + ops.erf(noise * 0.7071067811865476)), 1e-7, 1.0 - 1e-7)
        gumbel = -ops.log(-ops.log(uniform))
        scores = ops.log(ops.maximum(mean, 1e-30)) + gumbel
        return ops.one_hot(ops.argmax(scores, axis=-1), mean.shape[-1], dtype=mean.dtype)

    return _with_targets(loss, drawn)


def counting(loss: Any) -> Callable:
    """A loss whose gradient in each output is what its example counts in the mean."""
    return _SumOfOutputs(reduction=loss.reduction)


class _SumOfOutputs(keras.losses.Loss):
    def call(self, y_true: Tensor, y_pred: Tensor) -> Tensor:
        del y_true
        return ops.sum(y_pred, axis=-1)


def _with_targets(loss: Any, choose: Callable[[Tensor, Tensor | None], Tensor]) -> Any:
    kind = getattr(loss, "fn", None)
    options = dict(getattr(loss, "_fn_kwargs", {}))
    make = _KINDS.get(getattr(kind, "__name__", ""))
    if make is None or options.get("ignore_class") is not None:
        return None
    twin, moments = make(options)
    twin.reduction = loss.reduction

    def with_targets(y_true: Tensor, y_pred: Tensor, sample_weight: Tensor | None = None) -> Tensor:
        del y_true
        mean, spread = moments(ops.stop_gradient(y_pred))
        return twin(ops.stop_gradient(choose(mean, spread)), y_pred, sample_weight)

    return with_targets


def _squares(options: dict) -> tuple[Any, Callable]:
    del options

    # The mean over D outputs in place of their sum is a likelihood whose variances are D times as
    # large, here and below.
    def moments(y: Tensor) -> tuple:
        return y, ops.full_like(y, (y.shape[-1] / 2) ** 0.5)

    return keras.losses.MeanSquaredError(), moments


def _classes(options: dict) -> tuple[Any, Callable]:
    from_logits, axis = options.get("from_logits", False), options.get("axis", -1)

    def moments(y: Tensor) -> tuple:
        return (ops.softmax(y, axis) if from_logits else y / ops.sum(y, axis, keepdims=True)), None

    return keras.losses.CategoricalCrossentropy(from_logits=from_logits, axis=axis), moments


def _binary(options: dict) -> tuple[Any, Callable]:
    from_logits, axis = options.get("from_logits", False), options.get("axis", -1)

    def moments(y: Tensor) -> tuple:
        p = ops.sigmoid(y) if from_logits else y
        return p, ops.sqrt(y.shape[-1] * ops.maximum(p * (1.0 - p), 0.0))

    return keras.losses.BinaryCrossentropy(from_logits=from_logits, axis=axis), moments


def _counts(options: dict) -> tuple[Any, Callable]:
    del options

    def moments(y: Tensor) -> tuple:
        return y, ops.sqrt(y.shape[-1] * ops.maximum(y, 0.0))

    return keras.losses.Poisson(), moments


_KINDS: dict[str, Callable[[dict], tuple[Any, Callable]]] = {
    "mean_squared_error": _squares,
    "categorical_crossentropy": _classes,
    "sparse_categorical_crossentropy": _classes,
    "binary_crossentropy": _binary,
    "poisson": _counts,
}


def is_least_squares(loss: Any) -> bool:
    """Whether a Keras loss is a mean of squares."""
    return getattr(getattr(loss, "fn", None), "__name__", "") == "mean_squared_error"
