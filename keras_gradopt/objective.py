"""Objective: this minibatch's loss as a function of the weights."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from collections.abc import Callable, Iterator, Sequence
from contextvars import ContextVar
from typing import Any

import keras
from keras import ops
from keras.src.trainers.data_adapters import data_adapter_utils

from keras_gradopt import backend, likelihood
from keras_gradopt import layers as model_layers

Tensor = Any

_current: ContextVar[Objective | None] = ContextVar("keras_gradopt_objective", default=None)

_bound: ContextVar[keras.Model | None] = ContextVar("keras_gradopt_bound", default=None)

# True inside the step of a bound model, which hands its loss to the optimizer afterwards.
_watched: ContextVar[bool] = ContextVar("keras_gradopt_watched", default=False)


class Objective:
    """The loss of one minibatch at any weights, with everything else held still.

    The minibatch, BatchNorm statistics, and dropout masks are those of the step in progress, so the
    same point always gives the same number. Nothing in the model changes by evaluating.

    Args:
        model: The model; compiled.
        data: The minibatch as `train_step` receives it: x, (x, y) or (x, y, sample_weight).
        trainable: Values of the trainable variables; None are the present ones.
        non_trainable: Values of the other variables; None are the present ones.
        metrics: Values of the metrics' variables; None are the present ones.
        loss_scale: Factor on the loss while differentiating, against underflow in float16;
            gradients come back unscaled.

    Attributes:
        evaluations: What was computed so far, in gradients: a value counts 1/3, a value with its
            gradient 1, a Hessian-vector product 3.
    """

    def __init__(
        self,
        model: keras.Model,
        data: Any,
        trainable: Sequence[Tensor] | None = None,
        non_trainable: Sequence[Tensor] | None = None,
        metrics: Sequence[Tensor] | None = None,
        loss_scale: Any = 1.0,
    ) -> None:
        self._model = model
        self._x, self._y, self._sample_weight = data_adapter_utils.unpack_x_y_sample_weight(data)
        self._variables = list(model.trainable_variables)
        self._trainable = backend.frozen(self._variables) if trainable is None else trainable
        self._non_trainable = (
            backend.frozen(model.non_trainable_variables)
            if non_trainable is None
            else non_trainable
        )
        self._metrics = backend.frozen(model.metrics_variables) if metrics is None else metrics
        self._random_state = backend.random_state()
        self._loss_scale = loss_scale
        self._moving = list(range(len(self._variables)))
        self.evaluations = 0.0

    def over(self, variables: Sequence[Any]) -> Objective:
        """Restricts the objective to some of the model's variables, the rest held still.

        Args:
            variables: Trainable variables of the model, in the order in which weights are given.
        """
        position = {id(v): i for i, v in enumerate(self._variables)}
        unknown = [v for v in variables if id(v) not in position]
        if unknown:
            raise ValueError(
                f"The bound model has no trainable variable {unknown[0].path!r}. An optimizer that "
                "evaluates the loss must train the model that was bound, and all of its variables "
                "must be known since `compile`."
            )
        self._moving = [position[id(v)] for v in variables]
        return self

    def examples(self) -> Any:
        """How many examples the minibatch has, a number or a scalar."""
        return ops.shape(keras.tree.flatten(self._x)[0])[0]

    def value(self, ws: Sequence[Tensor]) -> Tensor:
        """The loss at `ws`, a scalar."""
        self.evaluations += 1 / 3
        with backend.replayed(self._random_state), backend.no_gradient():
            return self._loss(ws)

    def value_and_grad(self, ws: Sequence[Tensor]) -> tuple[Tensor, list[Tensor]]:
        """The loss at `ws` and its gradients, of the weights' shapes."""
        self.evaluations += 1.0
        with backend.replayed(self._random_state):
            value, gs = backend.value_and_grad(self._scaled_loss, list(ws))
        return self._unscaled(value), [self._unscaled(g) for g in gs]

    def hvp(self, ws: Sequence[Tensor], vs: Sequence[Tensor]) -> list[Tensor]:
        """The loss' Hessian at `ws` times `vs`, of the weights' shapes."""
        self.evaluations += 3.0
        with backend.replayed(self._random_state):
            return backend.hvp(self._loss, list(ws), list(vs))

    def layers(
        self,
        ws: Sequence[Tensor],
        noise: Callable[[tuple, int], Tensor] | None = None,
        found: model_layers.Found | None = None,
    ) -> model_layers.Layers:
        """What each layer sees at `ws`, with the gradient at its output before activation.

        One gradient's work gives the loss, its gradients, and both for each layer.

        Args:
            ws: Weights.
            noise: `noise(shape, number)`, standard normal numbers. If given, gradients are not
                those of the loss but of one draw of targets from the model's own predictions:
                `likelihood.score`. The losses must be likelihoods that it knows.
            found: The layers to look at, from `layers.find`; None are all that are known.

        Returns:
            Value and gradients, and per known layer what it saw. Gradients are of the loss, a mean
            over the minibatch: an example's own is its number of examples times as large.

        Raises:
            RuntimeError: A layer is called in a loop.
        """
        self.evaluations += 1.0
        if found is None:
            variables = [self._variables[i] for i in self._moving]
            found = model_layers.find(self._model, variables)
        loss = self._scaled_loss
        if noise is not None:
            loss = functools.partial(self._scaled_draw, noise)
        with backend.replayed(self._random_state):
            pass_ = model_layers.look(found, list(ws), loss)
        return model_layers.Layers(
            self._unscaled(pass_.value),
            [self._unscaled(g) for g in pass_.gradients],
            [
                dataclasses.replace(
                    one, output_gradients=[self._unscaled_float(d) for d in one.output_gradients]
                )
                for one in pass_.seen
            ],
        )

    def _scaled_draw(self, noise: Callable[[tuple, int], Tensor], ws: Sequence[Tensor]) -> Tensor:
        """What has the gradient of one draw of targets at the outputs."""
        _, y_pred, _, _ = self._forward(ws)
        model = self._model
        # The parts of a loss keep a running mean each; here it goes nowhere. Some are made in the
        # first step only, after their values were frozen.
        metrics = zip(model.metrics_variables, self._metrics, strict=False)
        with keras.StatelessScope(state_mapping=metrics):
            loss = likelihood.pseudo_loss(model, self._y, y_pred, self._sample_weight, noise)
        return loss * ops.cast(self._loss_scale, loss.dtype)

    def _unscaled_float(self, x: Tensor) -> Tensor:
        """In float32: gradients at outputs of half precision would underflow again."""
        return self._unscaled(model_layers.at_least_float32(x))

    def _scaled_loss(self, ws: Sequence[Tensor]) -> Tensor:
        loss = self._loss(ws)
        return loss * ops.cast(self._loss_scale, loss.dtype)

    def _unscaled(self, x: Tensor) -> Tensor:
        return x / ops.cast(self._loss_scale, x.dtype)

    def _forward(self, ws: Sequence[Tensor]) -> tuple:
        """All trainable values, the outputs, the other variables' values, the layers' losses."""
        model = self._model
        trainable = list(self._trainable)
        for i, w in zip(self._moving, ws, strict=True):
            trainable[i] = ops.cast(w, self._variables[i].dtype)
        training = {"training": True} if model._call_has_training_arg else {}
        y_pred, non_trainable, losses = model.stateless_call(
            trainable, self._non_trainable, self._x, return_losses=True, **training
        )
        return trainable, y_pred, non_trainable, losses

    def _loss(self, ws: Sequence[Tensor]) -> Tensor:
        model = self._model
        trainable, y_pred, non_trainable, losses = self._forward(ws)
        # Keras' own way to hand losses of the forward pass (add_loss, regularisers) to
        # compute_loss; the list is put back as it was.
        before, model._losses_override = model._losses_override, list(losses)
        try:
            loss, _ = model.stateless_compute_loss(
                trainable,
                non_trainable,
                self._metrics,
                x=self._x,
                y=self._y,
                y_pred=y_pred,
                sample_weight=self._sample_weight,
                training=True,
            )
        finally:
            model._losses_override = before
        half = keras.backend.standardize_dtype(loss.dtype) in ("float16", "bfloat16")
        return ops.cast(loss, "float32") if half else loss


@contextlib.contextmanager
def offered(objective: Objective) -> Iterator[None]:
    """Makes `objective` the one that optimizers find while the context lasts."""
    token = _current.set(objective)
    try:
        yield
    finally:
        _current.reset(token)


def current() -> Objective | None:
    """The objective of the step in progress, or None outside a bound model's step."""
    return _current.get()


@contextlib.contextmanager
def bound(model: keras.Model) -> Iterator[None]:
    """Makes `model` known to optimizers that build their state while the context lasts."""
    token = _bound.set(model)
    try:
        yield
    finally:
        _bound.reset(token)


def bound_model() -> keras.Model | None:
    """The bound model that is trained or built now, or None."""
    objective = current()
    return _bound.get() if objective is None else objective._model


@contextlib.contextmanager
def loss_watched() -> Iterator[None]:
    """While it lasts, a step of the optimizer is followed by its `observe`."""
    token = _watched.set(True)
    try:
        yield
    finally:
        _watched.reset(token)


def is_loss_watched() -> bool:
    """Whether the step in progress belongs to a bound model, which observes the loss."""
    return _watched.get()
