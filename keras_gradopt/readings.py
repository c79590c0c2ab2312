"""Readings: what a model says of given examples at its present weights, outside of its step."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal

import keras
import numpy as np
from keras import ops

from keras_gradopt import backend
from keras_gradopt.objective import Objective

Tensor = Any
Batch = tuple[Any, Any, Any]
Values = tuple[list[Tensor], list[Tensor]]
Score = Literal["loss", "gradient_norm"]


class Readings:
    """Losses, gradient norms and gradients of a compiled model, compiled once for each shape.

    Nothing in the model changes. On JAX the weights are found inside `fit` too, where the variables
    are empty while a step runs.

    Args:
        model: The model; it may be compiled and built later.

    Raises:
        TypeError: `model` is no Keras model.
    """

    def __init__(self, model: keras.Model) -> None:
        if not isinstance(model, keras.Model):
            raise TypeError(f"model must be a keras.Model, received {type(model).__name__}.")
        self.model = model
        self._compiled: dict[str, Callable] = {}
        self._loss: Any = None
        self._prepared = False
        self._last: Values | None = None

    def prepare(self, batch: Batch) -> bool:
        """Builds what is not built yet; to be called between two steps.

        Args:
            batch: Some rows of x, y and sample_weight, which tell the shapes.

        Returns:
            Whether the model was compiled since the last call, or this is the first.

        Raises:
            ValueError: The model is not compiled.
        """
        model = self.model
        if not model.compiled:
            raise ValueError(
                f"The model {model.name!r} is not compiled: call model.compile(optimizer=..., "
                "loss=...) first."
            )
        model._symbolic_build(data_batch=batch)
        # Only JAX loses sight of them; elsewhere this would keep a copy.
        self._last = self.values() if hasattr(model, "jax_state_sync") else None
        fresh = not self._prepared or self._loss is not model._compile_loss
        if fresh:
            self._loss, self._compiled, self._prepared = model._compile_loss, {}, True
        return fresh

    def values(self) -> Values | None:
        """The values of the trainable variables and of the others; None if out of reach.

        Out of reach are, on JAX, those of a step that runs together with the one before it.
        """
        return backend.present(self.model, self._last)

    def scores(self, values: Values, batch: Batch, by: Score) -> np.ndarray:
        r"""One number for each example, with its sample weight multiplied in.

        By `"loss"`, the example's loss. By `"gradient_norm"`, the norm of its loss' gradient with
        respect to what enters the activation of the model's last layer, which bounds the norm of
        the whole gradient up to a factor that all examples share (Katharopoulos and Fleuret 2018,
        Section 3.2). Activations that are no function in `_BEFORE` count as linear.

        Args:
            values: From `values`.
            batch: x, y and sample_weight; None where there are none.
            by: Which of the two.

        Returns:
            float64, at least 0, of shape (examples,).
        """
        found = self._function(by, lambda *args: self._scores(*args, by=by))(*values, *batch)
        return np.maximum(np.asarray(ops.convert_to_numpy(found), "float64"), 0.0)

    def gradient(self, values: Values, batch: Batch) -> tuple[float, list[Tensor]]:
        """The squared norm of a minibatch's gradient, and the gradient itself.

        As in training, but with the same dropout masks at each call.
        """
        squared, gradients = self._function("gradient", self._gradient)(*values, *batch)
        return float(ops.convert_to_numpy(squared)), gradients

    def require_linear_weights(self, values: Values, batch: Batch) -> None:
        """Makes sure that a sample weight scales its example's share of the loss, and nothing else.

        Raises:
            ValueError: The loss is divided by the weights' sum, or ignores them; or there is none.
        """
        if self._loss is None:
            raise ValueError(
                f"The model {self.model.name!r} is compiled without a loss, which examples are "
                "weighed by. Call model.compile(optimizer=..., loss=...)."
            )
        weights = np.arange(1.0, 1.0 + _rows(batch[0])).astype("float32")
        x, y, given = _tensors(batch)
        with backend.no_gradient():
            outputs = self._outputs(values, x)
            none, once, twice = (
                float(self._weighted_loss(values, y, outputs, given, ops.convert_to_tensor(w)))
                for w in (0 * weights, weights, 2 * weights)
            )
        size = max(abs(none), abs(once))
        # Half precision keeps three digits; a loss divided by the weights' sum is off by half.
        if np.isfinite(size) and (
            abs(twice - none - 2 * (once - none)) > 0.05 * size or (once == none != 0)
        ):
            raise ValueError(
                f"The loss of {self.model.name!r} does not grow in proportion to sample weights: "
                f"with weights times 0, 1 and 2 it is {none:g}, {once:g} and {twice:g}. Drawn "
                "examples are re-weighted by them, so take a loss with reduction "
                "'sum_over_batch_size' or 'sum', not 'mean_with_sample_weight'."
            )

    def _function(self, name: str, f: Callable) -> Callable:
        if name not in self._compiled:
            self._compiled[name] = backend.compiled(f)
        return self._compiled[name]

    def _outputs(self, values: Values, x: Any) -> Any:
        training = {"training": False} if self.model._call_has_training_arg else {}
        outputs, _ = self.model.stateless_call(*values, x, **training)
        # TensorFlow's cross-entropies look for the operation that made the outputs, and go around
        # it to the logits; here they shall find none.
        return keras.tree.map_structure(ops.stop_gradient, outputs)

    def _scores(
        self, trainable: Any, non_trainable: Any, x: Any, y: Any, given: Any, *, by: Score
    ) -> Tensor:
        values = (trainable, non_trainable)
        x, y, given = _tensors((x, y, given))
        with backend.no_gradient():
            outputs = self._outputs(values, x)
        flat = keras.tree.flatten(outputs)

        def loss(ws: Sequence[Tensor]) -> Tensor:
            packed = keras.tree.pack_sequence_as(outputs, list(ws[1:]))
            return self._weighted_loss(values, y, packed, given, ws[0])

        # The loss is linear in the weights, so each example's loss is a derivative. That holds for
        # several outputs, loss weights and losses of the user's own, whatever adds them up.
        _, (losses, *slopes) = backend.value_and_grad(loss, [ops.ones(flat[0].shape[0]), *flat])
        if by == "loss":
            return losses
        squares = 0.0
        for output, slope, layer in zip(flat, slopes, self._last_layers(len(flat)), strict=True):
            entering = ops.cast(_entering(layer, output, slope), "float32")
            rows = ops.reshape(entering, (entering.shape[0], -1))
            squares = squares + ops.sum(rows * rows, axis=1)
        return ops.sqrt(squares)

    def _weighted_loss(
        self, values: Values, y: Any, outputs: Any, given: Any, weights: Tensor
    ) -> Tensor:
        if given is None:
            weighted = weights
        else:
            weighted = keras.tree.map_structure(
                lambda w: ops.cast(w, weights.dtype) * along_rows(weights, len(w.shape)), given
            )
        model = self.model
        # What layers add to the loss does not depend on the weights; it is left in other traces.
        before, model._losses_override = model._losses_override, [ops.zeros(())]
        try:
            loss, _ = model.stateless_compute_loss(
                *values,
                self._metrics(),
                y=y,
                y_pred=outputs,
                sample_weight=weighted,
                training=False,
            )
        finally:
            model._losses_override = before
        return ops.cast(loss, "float32")

    def _metrics(self) -> list[Tensor]:
        # Their values do not matter, and on JAX they may be out of reach.
        return [ops.zeros(v.shape, v.dtype) for v in self.model.metrics_variables]

    def _gradient(
        self, trainable: Any, non_trainable: Any, x: Any, y: Any, given: Any
    ) -> tuple[Tensor, list[Tensor]]:
        data = _tensors((x, y, given))
        objective = Objective(self.model, data, trainable, non_trainable, self._metrics())
        _, gradients = objective.value_and_grad(trainable)
        return squared_norm(gradients), gradients

    def _last_layers(self, outputs: int) -> list[Any]:
        layers = list(_last(self.model))
        return layers if len(layers) == outputs else [None] * outputs


def squared_norm(xs: Sequence[Tensor]) -> Tensor:
    """The sum of the squares of all entries, float32."""
    norm = ops.cast(backend.global_norm([ops.cast(x, "float32") for x in xs]), "float32")
    return norm * norm


def along_rows(weights: Any, axes: int) -> Any:
    """One number per row, shaped to multiply an array of so many axes."""
    return ops.reshape(weights, (-1,) + (1,) * (axes - 1))


def _tensors(batch: Batch) -> Batch:
    return keras.tree.map_structure(
        lambda leaf: None if leaf is None else ops.convert_to_tensor(leaf), batch
    )


def _rows(x: Any) -> int:
    return int(keras.tree.flatten(x)[0].shape[0])


def _last(model: Any) -> Iterator[Any]:
    """The layers that a model's outputs come from, in their order; none of a subclass."""
    if isinstance(model, keras.Sequential):
        layers = model.layers[-1:]
    elif hasattr(model, "output_names"):
        layers = [model.get_layer(name) for name in model.output_names]
    else:
        layers = []
    for layer in layers:
        if isinstance(layer, keras.Model):
            yield from _last(layer)
        else:
            yield layer


def _entering(layer: Any, output: Tensor, slope: Tensor) -> Tensor:
    """The gradient before a layer's activation, from the output and the gradient behind it."""
    activation = getattr(layer, "activation", None)
    if isinstance(layer, keras.layers.Softmax) and layer.axis == -1:
        activation = keras.activations.softmax
    return _BEFORE.get(activation, lambda a, g: g)(output, slope)


# The transposed Jacobian of an activation times g, from its output a alone.
_BEFORE: dict[Any, Callable[[Tensor, Tensor], Tensor]] = {
    keras.activations.softmax: lambda a, g: a * (g - ops.sum(a * g, axis=-1, keepdims=True)),
    keras.activations.log_softmax: (
        lambda a, g: g - ops.exp(a) * ops.sum(g, axis=-1, keepdims=True)
    ),
    keras.activations.sigmoid: lambda a, g: a * (1 - a) * g,
    keras.activations.tanh: lambda a, g: (1 - a * a) * g,
    keras.activations.relu: lambda a, g: ops.where(a > 0, g, ops.zeros_like(g)),
    keras.activations.softplus: lambda a, g: (1 - ops.exp(-a)) * g,
    keras.activations.exponential: lambda a, g: a * g,
}
