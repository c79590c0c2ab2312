"""ModelLoss: a compiled model's loss on one minibatch, in parts."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import keras
from keras import ops
from keras.src.trainers.data_adapters import data_adapter_utils

from keras_gradopt import backend, likelihood
from keras_gradopt.likelihood import Normal
from keras_gradopt.tensors import is_double

Tensor = Any


class ModelLoss:
    """The forward pass and the loss of a model at any weights: what an `Objective` is made of.

    Args:
        model: The model; compiled.
        data: The minibatch as `train_step` receives it: x, (x, y) or (x, y, sample_weight).
        trainable: Values of the trainable variables; None are the present ones.
        non_trainable: Values of the other variables; None are the present ones.
        metrics: Values of the metrics' variables; None are the present ones.
        training: Whether the model runs as in training, with dropout and BatchNorm's statistics of
            the minibatch; False is the loss that `evaluate` measures.

    Attributes:
        is_double: Whether there are float64 weights.
    """

    def __init__(
        self,
        model: keras.Model,
        data: Any,
        trainable: Sequence[Tensor] | None = None,
        non_trainable: Sequence[Tensor] | None = None,
        metrics: Sequence[Tensor] | None = None,
        training: bool = True,
    ) -> None:
        self._model = model
        self._x, self._y, self._sample_weight = data_adapter_utils.unpack_x_y_sample_weight(data)
        self._variables = list(model.trainable_variables)
        self.is_double = any(is_double(v) for v in self._variables)
        self._trainable = backend.frozen(self._variables) if trainable is None else trainable
        self._non_trainable = (
            backend.frozen(model.non_trainable_variables)
            if non_trainable is None
            else non_trainable
        )
        self._metrics = backend.frozen(model.metrics_variables) if metrics is None else metrics
        self._training = training
        self._moving = list(range(len(self._variables)))

    def over(self, variables: Sequence[Any]) -> ModelLoss:
        """Restricts the loss to some of the model's variables, the rest held still.

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

    @property
    def model(self) -> keras.Model:
        """The model."""
        return self._model

    @property
    def variables(self) -> list[Any]:
        """The variables over which the loss is a function, in the order of the weights."""
        return [self._variables[i] for i in self._moving]

    def is_least_squares(self) -> bool:
        """Whether the compiled loss is a mean of squares, for each output."""
        return all(likelihood.is_least_squares(loss) for loss in self._losses())

    def _halves(self, count: Any) -> list[Callable[[Sequence[Tensor]], Tensor]]:
        """The losses of the first and of the second half of the minibatch's `count` examples."""
        if isinstance(count, int) and count < 2:
            raise ValueError(
                "The minibatch has one example and cannot be halved. Take a batch_size of at least "
                "2, and data whose last minibatch has as many."
            )

        def loss(rows: slice) -> Callable[[Sequence[Tensor]], Tensor]:
            part = copy.copy(self)
            part._x, part._y, part._sample_weight = keras.tree.map_structure(
                lambda t: None if t is None else t[rows], (self._x, self._y, self._sample_weight)
            )
            return part._loss

        return [loss(slice(0, count // 2)), loss(slice(count // 2, None))]

    def _loss(self, ws: Sequence[Tensor]) -> Tensor:
        y_pred, non_trainable, others = self._forward(ws)
        return self._loss_of(ws, y_pred, non_trainable, others)

    def _all(self, ws: Sequence[Tensor]) -> list[Tensor]:
        """All trainable values, with `ws` in their places."""
        trainable = list(self._trainable)
        for i, w in zip(self._moving, ws, strict=True):
            trainable[i] = ops.cast(w, self._variables[i].dtype)
        return trainable

    def _forward(self, ws: Sequence[Tensor]) -> tuple[Any, list[Tensor], list[Tensor]]:
        """The outputs, what the other variables become, and the losses beside the compiled one."""
        model = self._model
        training = {"training": self._training} if model._call_has_training_arg else {}
        y_pred, non_trainable, others = model.stateless_call(
            self._all(ws), self._non_trainable, self._x, return_losses=True, **training
        )
        self._has_other_losses = bool(others)
        return y_pred, non_trainable, list(others)

    def _loss_of(
        self, ws: Sequence[Tensor], y_pred: Any, non_trainable: Any, others: list[Tensor]
    ) -> Tensor:
        model = self._model
        # Keras' own way to hand losses of the forward pass (add_loss, regularisers) to
        # compute_loss; the list is put back as it was.
        before, model._losses_override = model._losses_override, others
        try:
            loss, _ = model.stateless_compute_loss(
                self._all(ws),
                non_trainable,
                self._metrics,
                x=self._x,
                y=self._y,
                y_pred=y_pred,
                sample_weight=self._sample_weight,
                training=self._training,
            )
        finally:
            model._losses_override = before
        half = keras.backend.standardize_dtype(loss.dtype) in ("float16", "bfloat16")
        return ops.cast(loss, "float32") if half else loss

    def _outputs(self, ws: Sequence[Tensor]) -> list[Tensor]:
        y_pred, self._kept, _ = self._forward(ws)
        self._structure = keras.tree.map_structure(lambda _: 0, y_pred)
        return [ops.cast(y, _wide(y)) for y in keras.tree.flatten(y_pred)]

    def _loss_of_outputs(self, ws: Sequence[Tensor], ys: Sequence[Tensor]) -> Tensor:
        y_pred = keras.tree.pack_sequence_as(self._structure, list(ys))
        # An empty list would let Keras gather the losses of the forward pass again.
        return self._loss_of(ws, y_pred, self._non_trainable, [ops.zeros(())])

    def _draw_at(self, y_pred: Any, normal: Normal) -> Tensor:
        model = self._model
        if unknown := likelihood.unknown(model):
            raise no_likelihood(", ".join(unknown), "a draw of its targets")
        # The parts of a loss keep a running mean each; here it goes nowhere. Some are made in the
        # first step only, after their values were frozen.
        metrics = zip(model.metrics_variables, self._metrics, strict=False)
        with keras.StatelessScope(state_mapping=metrics):
            return likelihood.pseudo_loss(model, self._y, y_pred, self._sample_weight, normal)

    def _other_losses(self, ws: Sequence[Tensor]) -> Tensor:
        _, _, others = self._forward(ws)
        return sum(ops.sum(ops.cast(loss, _wide(loss))) for loss in others)

    def _losses(self) -> list[Any]:
        compiled = self._model._compile_loss
        if compiled is None or not compiled.built:
            return [None]
        return [entry.loss for entry in compiled._flat_losses]

    @contextlib.contextmanager
    def _likelihood(self, twin_of: Callable[[Any], Any], purpose: str | None) -> Iterator[None]:
        """Puts other targets into the compiled losses for a while.

        Args:
            twin_of: From a loss to the one in its place, or None.
            purpose: What needs all of them to be likelihoods; None leaves unknown ones as they are.
        """
        compiled = self._model._compile_loss
        own = type(self._model).compute_loss is keras.Model.compute_loss
        if compiled is None or not own:
            if purpose is not None:
                raise no_likelihood("the model's own compute_loss", purpose)
            yield
            return
        flat = compiled._flat_losses
        twins = []
        for entry in flat:
            twin = twin_of(entry.loss)
            if twin is None and purpose is not None:
                raise no_likelihood(entry.loss.name, purpose)
            twins.append(entry if twin is None else entry._replace(loss=twin))
        compiled._flat_losses = twins
        try:
            yield
        finally:
            compiled._flat_losses = flat


def _wide(x: Tensor) -> str:
    """The dtype in which a tensor is differentiated twice."""
    dtype = str(keras.backend.standardize_dtype(x.dtype))
    return "float32" if dtype in ("float16", "bfloat16") else dtype


def no_likelihood(name: str, purpose: str) -> ValueError:
    """The error for a loss of which no likelihood is known."""
    return ValueError(
        f"{name!r} is no log-likelihood that is known, and {purpose} needs one. Known are "
        "categorical, sparse categorical and binary cross-entropy, mean squared error and Poisson. "
        "Take fisher='empirical', or the Gauss-Newton matrix."
    )
