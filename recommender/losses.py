"""What a model is trained on: the loss of each output, and whether targets fit it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from recommender.errors import RequestError
from recommender.examples import Examples, take
from recommender.models import (
    adds_loss,
    every_layer,
    forward,
    has_own_step,
    overrides_loss,
)
from recommender.outputs import Outputs, outputs_of

# Examples whose outputs are compared with what the loss takes.
OUTPUT_ROWS = 256
# Names that Keras turns into one of the cross-entropies.
CROSS_ENTROPY = ("crossentropy", "ce")


@dataclass(frozen=True, eq=False)
class Head:
    """One output and what it is trained towards.

    Attributes:
        name: What Keras calls the output.
        loss: A Keras loss or the caller's own function; None where the output has none.
        weight: The loss' factor in the total; None is 1.
    """

    name: str
    loss: Any
    weight: float | None = None


@dataclass(frozen=True, eq=False)
class Losses:
    """What a model is trained on, beside the losses that its layers add.

    Attributes:
        heads: One per output, in their flattened order.
        outputs: The outputs.
    """

    heads: tuple[Head, ...]
    outputs: Outputs

    @property
    def own(self) -> bool:
        """Whether no output has a loss: the model computes its own."""
        return all(head.loss is None for head in self.heads)

    def arranged(self, examples: Examples, suffix: str = "") -> Examples:
        """The examples with targets and weights as the outputs are; untouched for own losses."""
        if self.own:
            return examples
        return self.outputs.arranged(examples, [h.loss is not None for h in self.heads], suffix)

    @property
    def loss(self) -> Any:
        """As `model.compile` takes it, in the outputs' structure; None for own losses."""
        return None if self.own else self.outputs.packed([head.loss for head in self.heads])

    @property
    def loss_weights(self) -> Any:
        """As `model.compile` takes them, in the outputs' structure; None where all are 1."""
        weights = [1.0 if head.weight is None else float(head.weight) for head in self.heads]
        plain = self.own or all(weight == 1.0 for weight in weights)
        return None if plain else self.outputs.packed(weights)


def losses_for(
    model: keras.Model, examples: Examples, loss: Any, loss_weights: Any, *, settled: bool
) -> Losses:
    """The loss of each output.

    Args:
        model: A built private copy.
        examples: Training examples as arrays.
        loss: What `model.compile` takes: one for all outputs, a list, or a dict by name. None is
            the model's own where it has one, else the usual one for the targets.
        loss_weights: What `model.compile` takes.
        settled: Whether the model was compiled, so that no loss means none.

    Returns:
        The losses.

    Raises:
        RequestError: Nothing says what to train on, or the losses do not fit outputs and targets.
    """
    predictions = forward(model, take(examples.x, slice(0, 2)))
    outputs = outputs_of(model, predictions)
    own = overrides_loss(model) or (adds_loss(model) and (settled or examples.y is None))
    if examples.y is None and (loss is not None or not (own or has_own_step(model))):
        raise RequestError(
            "y is missing. Pass the targets (for an autoencoder, y=x), or train a model that has "
            "a loss of its own (add_loss in a layer, or compute_loss) without loss; data that "
            "stays at home is described by a summary such as {'shape': [64], 'task': "
            "'classification', 'samples': 1000}.",
            code="shape_mismatch",
        )
    if loss is None and (own or examples.y is None):
        return Losses(tuple(Head(name, None) for name in outputs.names), outputs)
    asked = outputs.each(loss, "loss")
    weights = outputs.each(loss_weights, "loss_weights")
    if len(asked) > 1 and isinstance(loss_weights, (int, float)):
        raise RequestError(
            f"loss_weights is one number, the model has {outputs}. Give a list in this order or a "
            "dict by name.",
            code="outputs_mismatch",
        )
    needed = [loss is None or one is not None for one in asked]
    targets = keras.tree.flatten(outputs.arranged(examples, needed).y)
    shapes = [tuple(output.shape[1:]) for output in keras.tree.flatten(predictions)]
    heads = []
    for i, name in enumerate(outputs.names):
        found = None
        if needed[i]:
            usual = asked[i] is None or str(asked[i]).lower() in CROSS_ENTROPY
            squashed = partial(_is_squashed, model, examples.x, i, name)
            found = _usual_loss(shapes[i], targets[i], squashed) if usual else asked[i]
            found = resolve_loss(found)
            label = "y" if len(asked) == 1 else f"y[{name!r}]"
            _check_target(found, shapes[i], targets[i], label)
        heads.append(Head(name, found, weights[i]))
    return Losses(tuple(heads), outputs)


def _usual_loss(shape: tuple[int, ...], y: NDArray[Any], squashed: Callable[[], bool]) -> Any:
    """The usual loss where nobody names one: cross-entropy for labels, else the squared error.

    Args:
        shape: Of one example's output.
        y: Its targets.
        squashed: Tells whether outputs are probabilities already.
    """
    labels = y.dtype.kind in "iub" and (y.size == len(y) or len(shape) == y.ndim)
    if labels and shape[-1] > 1:
        return keras.losses.SparseCategoricalCrossentropy(from_logits=not squashed())
    if labels and set(np.unique(y)) <= {0, 1}:
        return keras.losses.BinaryCrossentropy(from_logits=not squashed())
    return "mse"


def is_squashed(model: keras.Model, x: Any) -> bool:
    """Whether the only output is probabilities already, judged by those of some examples."""
    return _is_squashed(model, x, 0, "")


def _is_squashed(model: keras.Model, x: Any, position: int, name: str) -> bool:
    """Whether the output at this position, of this name, is probabilities already."""
    outputs = forward(model, take(x, slice(0, OUTPUT_ROWS)))
    output = keras.ops.convert_to_numpy(keras.tree.flatten(outputs)[position])
    output = np.asarray(output, np.float64)
    inside = bool(((output >= 0) & (output <= 1)).all())
    if output.shape[-1] > 1:
        return inside and bool(np.allclose(output.sum(axis=-1), 1, atol=1e-2))
    # One number in [0, 1] may be a logit by chance; the layer has to say so too.
    layers = every_layer(model)
    last = next((layer for layer in layers if layer.name == name), layers[-1])
    activation = getattr(getattr(last, "activation", None), "__name__", "")
    return inside and activation in ("sigmoid", "hard_sigmoid")


def resolve_loss(loss: Any) -> Any:
    """A Keras loss where there is one, else the caller's own function as it is.

    Raises:
        RequestError: When nothing of that name exists.
    """
    try:
        found = keras.losses.get(loss)
    except ValueError as error:
        raise RequestError(
            f"loss={loss!r} is not a Keras loss. Pass a name such as 'mse' or "
            "'sparse_categorical_crossentropy', or a keras.losses.Loss.",
            code="unknown_loss",
        ) from error
    return found if isinstance(found, keras.losses.Loss) else _as_loss_object(found)


def _as_loss_object(function: Callable[[Any, Any], Any]) -> Any:
    """The Keras class behind a loss function; any other function stays as it is."""
    for kind in vars(keras.losses).values():
        if isinstance(kind, type) and issubclass(kind, keras.losses.Loss):
            try:
                candidate = kind()
            except TypeError:  # the abstract base, or a loss with required arguments
                continue
            if getattr(candidate, "fn", None) is function:
                return candidate
    return function


def _check_target(loss: Any, shape: tuple[int, ...], y: NDArray[Any], name: str) -> None:
    """Refuse targets that an output and its loss cannot take; only Keras' own losses tell."""
    if not type(loss).__module__.startswith("keras."):
        return
    sparse = isinstance(loss, keras.losses.SparseCategoricalCrossentropy)
    expected = shape[:-1] if sparse else shape
    given = tuple(y.shape[1:])
    squeezed = {expected, (*expected, 1), expected[:-1] if expected[-1:] == (1,) else expected}
    if given not in squeezed:
        raise RequestError(
            f"{name} has rows of shape {given}, the model's output {shape} with loss "
            f"{loss.name!r} needs rows of shape {expected}. Change y, the last layer "
            "or the loss.",
            code="shape_mismatch",
        )


def check_labels(losses: Losses, model: keras.Model, *parts: Examples) -> None:
    """Refuse classes that an output has no place for.

    Args:
        losses: Of the model.
        model: A built private copy.
        parts: Training and validation examples, arranged.

    Raises:
        RequestError: With the lowest and the highest label.
    """
    shown = keras.tree.flatten(forward(model, take(parts[0].x, slice(0, 2))))
    for i, head in enumerate(losses.heads):
        if not isinstance(head.loss, keras.losses.SparseCategoricalCrossentropy):
            continue
        labels = np.concatenate([keras.tree.flatten(part.y)[i].ravel() for part in parts])
        labels = labels[labels != head.loss.ignore_class]
        lowest, highest, width = int(labels.min()), int(labels.max()), shown[i].shape[-1]
        if lowest < 0 or highest >= width:
            raise RequestError(
                f"labels run from {lowest} to {highest}, but the model has {width} outputs, "
                f"so labels must lie in 0 to {width - 1}. Renumber y or widen the last layer.",
                code="label_range",
            )
