"""Objective: this minibatch's loss as a function of the weights."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import functools
from collections.abc import Callable, Iterator, Sequence
from contextvars import ContextVar
from typing import Any, Literal

import keras
from keras import ops

from keras_gradopt import backend, likelihood
from keras_gradopt import layers as model_layers
from keras_gradopt.likelihood import Normal
from keras_gradopt.model_loss import ModelLoss
from keras_gradopt.tensors import either

Tensor = Any
Fisher = Literal["exact", "mc", "empirical"]
# From tensors of the weights' shapes to such tensors, linear.
Product = Callable[[Sequence[Tensor]], list[Tensor]]

_current: ContextVar[Objective | None] = ContextVar("keras_gradopt_objective", default=None)

_bound: ContextVar[keras.Model | None] = ContextVar("keras_gradopt_bound", default=None)

# True inside the step of a bound model, which hands its loss to the optimizer afterwards.
_watched: ContextVar[bool] = ContextVar("keras_gradopt_watched", default=False)


class Objective(ModelLoss):
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
        cost_of_step: What the train step around it evaluates by itself: a gradient, or a loss.
        training: Whether the model runs as in training, with dropout and BatchNorm's statistics of
            the minibatch; False is the loss that `evaluate` measures.

    Attributes:
        evaluations: What was computed so far, in gradients: a value counts 1/3, a value with its
            gradient 1, a Hessian-vector product 3.
    """

    def __init__(
        self, *args: Any, loss_scale: Any = 1.0, cost_of_step: float = 1.0, **kwargs: Any
    ) -> None:
        super().__init__(*args, **kwargs)
        self.cost_of_step = cost_of_step
        self._random_state = backend.random_state()
        self._loss_scale = loss_scale
        self.evaluations: Any = 0.0

    def apart(self) -> Objective:
        """The same loss, with a count of evaluations of its own that begins at 0."""
        found = copy.copy(self)
        found.evaluations = 0.0
        return found

    def examples(self) -> Any:
        """How many examples the minibatch has, a number or a scalar."""
        return ops.shape(keras.tree.flatten(self._x)[0])[0]

    def value(self, ws: Sequence[Tensor]) -> Tensor:
        """The loss at `ws`, a scalar."""
        self.evaluations += 1 / 3
        with self._replayed(), backend.no_gradient():
            return self._loss(ws)

    def values(self, population: Sequence[Tensor]) -> Tensor:
        """The losses at several points.

        Args:
            population: Weights with a leading axis of the points: (points, *weight's shape).

        Returns:
            Shape (points,).
        """
        self.evaluations += int(population[0].shape[0]) / 3
        with self._replayed(), backend.no_gradient():
            return backend.values(self._loss, list(population))

    def values_on_halves(self, population: Sequence[Tensor]) -> Tensor:
        """The losses at several points, on the first and on the second half of the minibatch.

        Both together cost what `values` costs. Their mean is the loss of the whole where that is a
        mean over examples, and no layer looks at the minibatch as a whole.

        Args:
            population: Weights with a leading axis of the points: (points, *weight's shape).

        Returns:
            Shape (2, points).

        Raises:
            ValueError: The minibatch has one example.
        """
        halves = self._halves(self.examples())
        self.evaluations += int(population[0].shape[0]) / 3
        with self._replayed(), backend.no_gradient():
            return ops.stack([backend.values(loss, list(population)) for loss in halves])

    def value_and_grad(self, ws: Sequence[Tensor]) -> tuple[Tensor, list[Tensor]]:
        """The loss at `ws` and its gradients, of the weights' shapes."""
        self.evaluations += 1.0
        with self._replayed():
            value, gs = backend.value_and_grad(self._scaled_loss, list(ws))
        return self._unscaled(value), [self._unscaled(g) for g in gs]

    def sampled_gradient(self, ws: Sequence[Tensor], normal: Normal) -> list[Tensor]:
        """Gradients at targets as the model itself would draw them: see `likelihood.score`.

        Their squares are unbiased for the diagonal of the Fisher information.

        Args:
            ws: Weights.
            normal: From a shape and a number to standard normal numbers.

        Raises:
            ValueError: The loss is no likelihood that is known.
        """
        self.evaluations += 1.0
        with self._replayed():
            _, gs = backend.value_and_grad(functools.partial(self._scaled_draw, normal), list(ws))
        return [self._unscaled(g) for g in gs]

    def hvp(self, ws: Sequence[Tensor], vs: Sequence[Tensor]) -> list[Tensor]:
        """The loss' Hessian at `ws` times `vs`, of the weights' shapes."""
        return self.hessian_at(ws)(vs)

    def hessian_at(self, ws: Sequence[Tensor]) -> Product:
        """`hvp` at `ws` as a function of `vs`: several products share what they can."""
        with self._replayed():
            product = backend.hessian_at(self._loss, list(ws))
        return self._counted(product, 3.0)

    def ggnvp(self, ws: Sequence[Tensor], vs: Sequence[Tensor]) -> list[Tensor]:
        r"""The generalised Gauss-Newton matrix at `ws` times `vs`, of the weights' shapes.

        $G = J^T H J$ with the Jacobian $J$ of the model's outputs and the Hessian $H$ of the loss
        in them, for cross-entropies, mean squares and Poisson at the targets that the model
        expects: then outputs as probabilities give the same $G$ as outputs as logits. Regularisers
        and `add_loss` enter by their own Hessian.
        """
        return self.gauss_newton_at(ws)(vs)

    def gauss_newton_at(self, ws: Sequence[Tensor]) -> Product:
        """`ggnvp` at `ws` as a function of `vs`: several products share what they can."""
        product = self._through_outputs(ws, needs_likelihood=False)
        if self._has_other_losses:
            with self._replayed():
                others = backend.hessian_at(self._other_losses, list(ws))
            outputs_only = product

            def product(vs: Sequence[Tensor]) -> list[Tensor]:
                return [a + b for a, b in zip(outputs_only(vs), others(vs), strict=True)]

        return self._counted(product, 2.0)

    def fvp(
        self,
        ws: Sequence[Tensor],
        vs: Sequence[Tensor],
        fisher: Fisher = "exact",
        normal: Normal | None = None,
    ) -> list[Tensor]:
        r"""The Fisher information at `ws` times `vs`, of the weights' shapes.

        $F = J^T E[\nabla\ell\, \nabla\ell^T] J$ with the log-likelihood's gradient in the outputs,
        for the mean over the minibatch; positions of a sequence count as examples. Regularisers and
        `add_loss` do not enter.

        Args:
            ws: Weights.
            vs: The vector, of the weights' shapes.
            fisher: `"exact"` takes the expectation, `"mc"` one draw of the model's own targets per
                example, `"empirical"` the targets of the data, which is no Fisher information but
                often called so.
            normal: For `"mc"`: from a shape and a number to standard normal numbers.

        Raises:
            ValueError: The loss is no likelihood that is known, or has no value per example.
        """
        return self.fisher_at(ws, fisher, normal)(vs)

    def fisher_at(
        self, ws: Sequence[Tensor], fisher: Fisher = "exact", normal: Normal | None = None
    ) -> Product:
        """`fvp` at `ws` as a function of `vs`: several products share what they can."""
        if fisher == "exact":
            return self._counted(self._through_outputs(ws, needs_likelihood=True), 2.0)
        with self._replayed():
            ys, push, pull = backend.jacobian_at(self._outputs, list(ws))
        outer = self._outer_products(ws, ys, fisher, normal)
        return self._counted(lambda vs: pull(outer(push(list(vs)))), 2.0)

    def _counted(self, product: Product, cost: float) -> Product:
        def counted(vs: Sequence[Tensor]) -> list[Tensor]:
            self.evaluations += cost
            return product(list(vs))

        return counted

    def _through_outputs(self, ws: Sequence[Tensor], *, needs_likelihood: bool) -> Product:
        ws = list(ws)
        with self._replayed():
            ys, push, pull = backend.jacobian_at(self._outputs, ws)
        purpose = "a Fisher information" if needs_likelihood else None
        with self._likelihood(likelihood.expecting, purpose):
            curved = backend.hessian_at(lambda ys: self._loss_of_outputs(ws, ys), ys)
        return lambda vs: pull(curved(push(vs)))

    def _outer_products(
        self, ws: Sequence[Tensor], ys: list[Tensor], fisher: Fisher, normal: Normal | None
    ) -> Product:
        """The mean over examples of the log-likelihood's gradient in the outputs, twice."""
        if fisher == "mc":
            if normal is None:
                raise ValueError("fvp with fisher='mc' needs `normal`, a source of random numbers.")
            draw = functools.partial(self._draw_of_outputs, normal)
            _, gs = backend.value_and_grad(draw, ys)
            return lambda along: [
                g * ops.sum(g * a, axis=-1, keepdims=True) for g, a in zip(gs, along, strict=True)
            ]

        def gradient() -> list[Tensor]:
            return backend.value_and_grad(lambda ys: self._loss_of_outputs(ws, ys), ys)[1]

        gs = gradient()
        # What each example counts in the mean: a gradient holds it once, the product of two would
        # hold it twice.
        with self._likelihood(likelihood.counting, None):
            counts = gradient()
        return lambda along: [
            g * ops.sum(g * a, axis=-1, keepdims=True) / ops.where(c > 0, c, 1.0)
            for g, a, c in zip(gs, along, counts, strict=True)
        ]

    def layers(
        self,
        ws: Sequence[Tensor],
        noise: Normal | None = None,
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
            found = model_layers.find(self.model, self.variables)
        loss = self._scaled_loss
        if noise is not None:
            loss = functools.partial(self._scaled_draw, noise)
        with self._replayed():
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

    def _scaled_draw(self, normal: Normal, ws: Sequence[Tensor]) -> Tensor:
        """What has the gradient of one draw of targets at the outputs."""
        y_pred, _, _ = self._forward(ws)
        loss = self._draw_at(y_pred, normal)
        return loss * ops.cast(self._loss_scale, loss.dtype)

    def _draw_of_outputs(self, normal: Normal, ys: Sequence[Tensor]) -> Tensor:
        return self._draw_at(keras.tree.pack_sequence_as(self._structure, list(ys)), normal)

    def _unscaled_float(self, x: Tensor) -> Tensor:
        """In float32: gradients at outputs of half precision would underflow again."""
        return self._unscaled(model_layers.at_least_float32(x))

    def loop(
        self, condition: Callable[..., Tensor], body: Callable[..., tuple], state: tuple
    ) -> tuple:
        """`ops.while_loop` whose evaluations count; a loop of Python where values are known.

        Args:
            condition: From the state's parts to a boolean scalar.
            body: From the state's parts to the next ones, of the same shapes and dtypes.
            state: Tensors.
        """
        try:
            going = bool(condition(*state))
        except TypeError:  # traced, by JAX or TensorFlow
            return self._traced_loop(condition, body, state)
        while going:
            state = body(*state)
            going = bool(condition(*state))
        return state

    def _traced_loop(self, condition: Callable, body: Callable, state: tuple) -> tuple:
        def counted(total: Tensor, *state: Tensor) -> tuple:
            self.evaluations = 0.0
            state = body(*state)
            return (total + self.evaluations, *state)

        before = self.evaluations
        self.evaluations = 0.0
        start = (ops.convert_to_tensor(0.0, "float32"), *state)
        total, *state = ops.while_loop(lambda _, *state: condition(*state), counted, start)
        self.evaluations = before + total
        return tuple(state)

    def either(self, condition: Tensor, yes: Callable[[], Any], no: Callable[[], Any]) -> Any:
        """`tensors.either` whose evaluations count: those of the branch that is taken."""

        def counted(branch: Callable[[], Any]) -> Callable[[], Any]:
            def run() -> Any:
                self.evaluations = 0.0
                found = branch()
                return found, ops.convert_to_tensor(self.evaluations, "float32")

            return run

        before = self.evaluations
        found, spent = either(condition, counted(yes), counted(no))
        self.evaluations = before + spent
        return found

    def _replayed(self) -> contextlib.AbstractContextManager:
        return backend.replayed(self._random_state, double=self.is_double)

    def _scaled_loss(self, ws: Sequence[Tensor]) -> Tensor:
        loss = self._loss(ws)
        return loss * ops.cast(self._loss_scale, loss.dtype)

    def _unscaled(self, x: Tensor) -> Tensor:
        return x / ops.cast(self._loss_scale, x.dtype)


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
    return _bound.get() if objective is None else objective.model


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
