"""Changes of a problem that may help its training, each a function from problem to problem."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from recommender.copies import private_copy
from recommender.models import every_layer
from recommender.problem import Problem

# A column's value is taken for a mark of "missing" when it lies this many deviations off the rest.
FAR = 5.0
# Columns are cut off at this share of either side.
TAIL = 0.01


def _columns(problem: Problem, change: Callable[[NDArray[Any], NDArray[Any]], Any]) -> Problem:
    """The problem with a change of each table of floats, learnt from the training rows."""

    def apply(train: NDArray[Any], rows: NDArray[Any]) -> NDArray[Any]:
        if not is_table(train):
            return rows
        changed: NDArray[Any] = np.asarray(change(train, rows)).astype(rows.dtype)
        return changed

    x = keras.tree.map_structure(apply, problem.x, problem.x)
    return dataclasses.replace(
        problem, x=x, x_val=keras.tree.map_structure(apply, problem.x, problem.x_val)
    )


def is_table(values: NDArray[Any]) -> bool:
    """Whether these are columns of floating-point numbers."""
    return values.dtype.kind == "f" and values.ndim == 2


def standardised(problem: Problem) -> Problem:
    """Every column with mean 0 and deviation 1: what a `Normalization` layer in front computes."""

    def change(train: NDArray[Any], rows: NDArray[Any]) -> NDArray[Any]:
        deviation = train.std(0)
        scaled: NDArray[Any] = (rows - train.mean(0)) / np.where(deviation > 0, deviation, 1)
        return scaled

    return _columns(problem, change)


def clipped(problem: Problem) -> Problem:
    """Every column cut off at its 1 % and 99 % quantiles."""
    return _columns(
        problem,
        lambda train, rows: np.clip(rows, *np.quantile(train, [TAIL, 1 - TAIL], axis=0)),
    )


def filled(problem: Problem) -> Problem:
    """Marks of missing values replaced by the median of the rest of their column."""

    def change(train: NDArray[Any], rows: NDArray[Any]) -> NDArray[Any]:
        rows = rows.copy()
        for column, mark in marks(train).items():
            rest = train[train[:, column] != mark, column]
            rows[rows[:, column] == mark, column] = np.median(rest)
        return rows

    return _columns(problem, change)


def marks(table: NDArray[Any]) -> dict[int, float]:
    """Columns with a value that stands for "missing", and that value.

    It is the column's extreme, occurs in at least a hundredth of the rows, and lies far off a rest
    that has more than a few values.
    """
    found = {}
    for column, values in enumerate(table.T):
        for mark in (values.min(), values.max()):
            rest = values[values != mark]
            if len(rest) < len(values) / 4 or len(values) - len(rest) < len(values) / 100:
                continue
            kinds, counts = np.unique(rest, return_counts=True)
            if len(kinds) < 5 or counts.max() > len(rest) / 2:  # a category, or mostly absent
                continue
            if np.abs(mark - rest.mean()) > FAR * rest.std() > 0:
                found[column] = float(mark)
    return found


# ---------------------------------------------------------------------- targets and loss


def with_loss(problem: Problem, loss: keras.losses.Loss) -> Problem:
    """Another loss to train with."""
    return dataclasses.replace(problem, loss=loss)


class _Rescaled(keras.losses.Loss):
    """A loss at outputs that are given in units of the targets' deviation."""

    def __init__(self, loss: keras.losses.Loss, mean: Any, deviation: Any) -> None:
        super().__init__(name=loss.name)
        self._loss, self._mean, self._deviation = loss, mean, deviation

    def call(self, y_true: Any, y_pred: Any) -> Any:
        return self._loss(y_true, y_pred * self._deviation + self._mean)


def rescaled_targets(problem: Problem) -> Problem:
    """Outputs times the targets' deviation plus their mean: as if targets had mean 0, deviation 1.

    The loss is the original one at these outputs, so its values can be compared.
    """
    mean, deviation = float(np.mean(problem.y)), float(np.std(problem.y))
    return with_loss(problem, _Rescaled(problem.loss, mean, deviation or 1.0))


def huber(problem: Problem) -> Problem:
    """The Huber loss, linear beyond twice the targets' usual deviation."""
    y = np.asarray(problem.y, np.float64)
    spread = np.quantile(y, 0.75) - np.quantile(y, 0.25)
    usual = float(spread / 1.349) or float(y.std()) or 1.0  # of a normal distribution
    return with_loss(problem, keras.losses.Huber(delta=2 * usual))


# ---------------------------------------------------------------------- batches


def in_batches_of(problem: Problem, size: int) -> Problem:
    """Another batch size; a full training still sees as many examples."""
    steps = max(1, round(problem.steps_per_epoch * problem.batch_size / size))
    return dataclasses.replace(
        problem,
        batch_size=size,
        steps_per_epoch=steps,
        full_steps=steps * problem.epochs,
    )


# ---------------------------------------------------------------------- first weights


def with_weights(problem: Problem, change: Callable[[keras.Model], None]) -> Problem:
    """A copy of the model whose weights a function has changed."""
    model = private_copy(problem.model, problem.x)
    change(model)
    return dataclasses.replace(problem, model=model)


def head(model: keras.Model) -> Any:
    """The layer that gives the outputs, if it is a product with a bias; else None."""
    last = [layer for layer in every_layer(model) if layer.weights]
    return last[-1] if last and getattr(last[-1], "bias", None) is not None else None


def with_class_frequencies(problem: Problem) -> Problem:
    """First outputs at the classes' frequencies, set through the last layer's bias."""
    y = np.asarray(problem.y)

    def change(model: keras.Model) -> None:
        bias = head(model).bias
        if bias.shape[-1] == 1:
            share = float(np.clip(y.mean(), 1e-4, 1 - 1e-4))
            logits = np.array([math.log(share / (1 - share))])
        else:
            labels = y.astype(int).ravel() if y.shape[-1] != bias.shape[-1] else y.argmax(-1)
            counts = np.bincount(labels.ravel(), minlength=bias.shape[-1])
            logits = np.log((counts + 1) / (counts + 1).sum())
        bias.assign(logits.astype("float32"))

    return with_weights(problem, change)


def with_small_head(problem: Problem, factor: float = 0.1) -> Problem:
    """The last layer's first weights made smaller."""

    def change(model: keras.Model) -> None:
        kernel = head(model).kernel
        kernel.assign(kernel * factor)

    return with_weights(problem, change)


def redrawn(problem: Problem) -> Problem:
    """First weights drawn anew: He's for layers that rectify, Glorot's for all others."""

    def change(model: keras.Model) -> None:
        for number, layer in enumerate(every_layer(model)):
            kernel = getattr(layer, "kernel", None)
            if kernel is None or not layer.trainable:
                continue
            activation = getattr(getattr(layer, "activation", None), "__name__", "")
            he = activation in ("relu", "leaky_relu", "elu", "gelu", "silu")
            kind = keras.initializers.HeNormal if he else keras.initializers.GlorotUniform
            kernel.assign(kind(seed=problem.seed + number)(kernel.shape, kernel.dtype))

    return with_weights(problem, change)


# ---------------------------------------------------------------------- layers


def rebuilt(
    problem: Problem,
    *,
    layer: Callable[[keras.layers.Layer], keras.layers.Layer] | None = None,
    call: Callable[..., Any] | None = None,
) -> Problem | None:
    """The same graph with other layers in it; layers that keep their name keep their weights.

    Args:
        problem: With a model whose graph is known.
        layer: From a layer to the one in its place.
        call: Calls a layer, and whatever is to come behind it.

    Returns:
        The problem, or None where the model has no graph, or shares layers.
    """
    graph = as_graph(problem.model)
    if graph is None:
        return None
    twin = keras.models.clone_model(
        graph,
        clone_function=layer or (lambda old: old.__class__.from_config(old.get_config())),
        call_function=call,
    )
    own = {old.name: old for old in graph.layers}
    for new in twin.layers:
        old = own.get(new.name)
        if old is not None and [w.shape for w in new.weights] == [w.shape for w in old.weights]:
            for ours, theirs in zip(new.weights, old.weights, strict=True):
                ours.assign(theirs)
    return dataclasses.replace(problem, model=private_copy(twin, problem.x))


def as_graph(model: keras.Model) -> Any:
    """The model as a flat graph of layers; None where it has none."""
    try:
        if isinstance(model, keras.Sequential):
            graph = keras.Model(model.inputs[0], model.outputs[0])
        else:
            graph = keras.Model(model.input, model.output)
    except (AttributeError, TypeError, ValueError):
        return None
    nested = any(getattr(layer, "layers", None) for layer in graph.layers)
    return None if nested or len(graph.outputs) != 1 else graph


def normalised(problem: Problem) -> Problem | None:
    """Layer normalisation between every hidden product and its activation."""
    graph = as_graph(problem.model)
    if graph is None:
        return None
    outputs = {id(layer) for layer in (head(graph),)}
    hidden = {
        layer.name: layer.activation
        for layer in graph.layers
        if isinstance(layer, (keras.layers.Dense, keras.layers.Conv1D, keras.layers.Conv2D))
        and id(layer) not in outputs
    }

    def linear(old: keras.layers.Layer) -> keras.layers.Layer:
        config = old.get_config()
        if old.name in hidden:
            config["activation"] = None
        return old.__class__.from_config(config)

    def call(layer: keras.layers.Layer, *args: Any, **kwargs: Any) -> Any:
        found = layer(*args, **kwargs)
        if layer.name not in hidden:
            return found
        found = keras.layers.LayerNormalization(name=f"{layer.name}_normalised")(found)
        return keras.layers.Activation(hidden[layer.name], name=f"{layer.name}_activated")(found)

    return rebuilt(problem, layer=linear, call=call)


def without_batch_statistics(problem: Problem) -> Problem | None:
    """Layer normalisation in place of batch normalisation."""

    def other(old: keras.layers.Layer) -> keras.layers.Layer:
        if isinstance(old, keras.layers.BatchNormalization):
            return keras.layers.LayerNormalization(name=old.name, epsilon=old.epsilon)
        return old.__class__.from_config(old.get_config())

    def call(layer: keras.layers.Layer, *args: Any, **kwargs: Any) -> Any:
        plain = isinstance(layer, keras.layers.LayerNormalization)  # takes no mask
        return layer(*args) if plain else layer(*args, **kwargs)

    return rebuilt(problem, layer=other, call=call)


def with_leaky_units(problem: Problem) -> Problem | None:
    """Leaky units in place of rectified ones."""

    def other(old: keras.layers.Layer) -> keras.layers.Layer:
        if isinstance(old, keras.layers.ReLU):
            return keras.layers.LeakyReLU(negative_slope=0.1, name=old.name)
        config = old.get_config()
        if config.get("activation") == "relu":
            config["activation"] = "leaky_relu"
        return old.__class__.from_config(config)

    return rebuilt(problem, layer=other)
