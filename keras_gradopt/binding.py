"""bind(model): gives one model the train step that hands its optimizer an Objective."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import keras

from keras_gradopt import backend
from keras_gradopt.objective import Objective, offered


def bind(model: keras.Model) -> keras.Model:
    """Lets optimizers that evaluate the loss again (SAM, ...) train this model through `fit`.

    Sets the instance's train step to the model's own one inside a context in which the optimizer
    finds an `Objective`; `compile` and `fit` stay as they are, and with an optimizer that needs
    gradients only the step is the model's own. Nothing but this instance changes. Keras does not
    save it: bind again after `load_model` or `clone_model`. Binding twice is binding once.

    Args:
        model: The model, compiled or not.

    Returns:
        The same model.

    Raises:
        TypeError: `model` is no Keras model.
        ValueError: Keras runs with NNX, which ignores a train step on the instance.

    Example:
        >>> model = keras_gradopt.bind(model)
        >>> model.compile(optimizer=keras_gradopt.SAM("sgd"), loss="mse")

    References:
        The mechanism is ours; the trainers of Keras 3 read `self.train_step`.
    """
    if not isinstance(model, keras.Model):
        raise TypeError(f"bind takes a keras.Model, received {type(model).__name__}.")
    if keras.config.is_nnx_enabled():
        raise ValueError(
            "Keras runs with NNX, which ignores a train step set on one model. Unset "
            "KERAS_NNX_ENABLED to use optimizers that evaluate the loss again."
        )
    own_step = type(model).train_step.__get__(model)

    @contextlib.contextmanager
    def offer(trainable: Any, non_trainable: Any, metrics: Any, optimizer: Any, data: Any) -> Any:
        if not needs_objective(model.optimizer):
            yield
            return
        scale = _loss_scale(model.optimizer, optimizer)
        objective = Objective(model, data, trainable, non_trainable, metrics, scale)
        with offered(objective):
            yield

    model.train_step = backend.train_step(own_step, offer)
    # Keras compiles the step once and keeps it; the next fit must see the new one.
    model.train_function = None
    return model


def needs_objective(optimizer: Any) -> bool:
    """Whether an optimizer, or one inside it, evaluates the loss again."""
    return any(getattr(o, "needs", "gradient") != "gradient" for o in _chain(optimizer))


def _chain(optimizer: Any) -> Iterator[Any]:
    while optimizer is not None:
        yield optimizer
        optimizer = getattr(optimizer, "inner_optimizer", None)


def _loss_scale(optimizer: Any, values: Any) -> Any:
    """What the optimizer multiplies the loss with at this step, as a number or tensor."""
    if values is None:
        return optimizer.scale_loss(1.0)
    with keras.StatelessScope(zip(optimizer.variables, values, strict=True)):
        return optimizer.scale_loss(1.0)
