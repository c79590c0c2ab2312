"""Names the layer to blame where a loss cannot be differentiated twice."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import keras
from keras import ops

from keras_gradopt import backend

Tensor = Any


@contextlib.contextmanager
def once_differentiable(landscape: Any) -> Iterator[None]:
    """Turns what a backend says of a missing second derivative into an error that names the layer.

    Args:
        landscape: The `Landscape` whose product is computed inside.

    Raises:
        ValueError: The product failed, and a layer or the loss has no second derivative.
    """
    try:
        yield
    except Exception as error:
        blamed = _culprit(landscape.model, landscape.data[0], landscape.training)
        if blamed is None:
            raise
        raise ValueError(
            f"The loss of {landscape.model.name!r} cannot be differentiated twice: {blamed} has no "
            f"second derivative on this backend ({_first_line(error)}). Take another layer or "
            "operation there, or leave out what stands before it: variables='<layer after it>'."
        ) from error


def _culprit(model: keras.Model, data: tuple, training: bool) -> str | None:
    """The first layer, or the loss, whose own second derivative fails; None if all have one."""
    x, y, sample_weight = data
    calls, y_pred = _calls(model, x, training)
    for layer, (args, kwargs) in calls:
        weights = [v.value for v in layer.trainable_variables]

        def output(ws: list, inputs: Any, layer: Any = layer) -> Tensor:
            args, kwargs = inputs
            rest = [v.value for v in layer.non_trainable_variables]
            return layer.stateless_call(ws, rest, *args, **kwargs)[0]

        if not _is_smooth(output, weights, (args, kwargs)):
            return f"the layer {layer.path!r} ({type(layer).__name__})"

    def loss(_: list, outputs: Any) -> Tensor:
        return model.compute_loss(x, y, outputs, sample_weight, training=training)

    return None if _is_smooth(loss, [], y_pred) else f"the loss {model.loss!r}"


def _calls(model: keras.Model, x: Any, training: bool) -> tuple[list[tuple], Any]:
    """Each leaf layer with the arguments it was called with first, and the model's outputs."""
    calls: dict[int, tuple] = {}
    layers = list(_leaves(model))
    for layer in layers:

        def recorded(*args: Any, _own: Any = layer.call, _at: Any = layer, **kwargs: Any) -> Any:
            calls.setdefault(id(_at), (_at, (args, kwargs)))
            return _own(*args, **kwargs)

        # On the instance: the class' method is found after it.
        object.__setattr__(layer, "call", recorded)
    try:
        with backend.no_gradient():
            y_pred = model(x, training=training)
    finally:
        for layer in layers:
            object.__delattr__(layer, "call")
    return list(calls.values()), y_pred


def _leaves(layer: Any) -> Iterator[Any]:
    inside = getattr(layer, "layers", None)
    if not inside:
        yield layer
        return
    for one in inside:
        yield from _leaves(one)


def _is_smooth(f: Any, weights: list, inputs: Any) -> bool:
    leaves = keras.tree.flatten(inputs)
    moving = [i for i, a in enumerate(leaves) if _is_float(a)]
    ws = [*weights, *(leaves[i] for i in moving)]
    if not ws:
        return True

    def squares(ws: list) -> Tensor:
        filled = list(leaves)
        for i, a in zip(moving, ws[len(weights) :], strict=True):
            filled[i] = a
        outputs = f(ws[: len(weights)], keras.tree.pack_sequence_as(inputs, filled))
        floats = [o for o in keras.tree.flatten(outputs) if _is_float(o)]
        # Sines keep every derivative alive.
        return sum((ops.sum(ops.sin(ops.cast(o, "float32"))) for o in floats), ops.zeros(()))

    try:
        backend.hvp(squares, ws, [ops.ones_like(w) for w in ws])
    except Exception:  # noqa: BLE001 - each backend has its own for what it cannot differentiate
        return False
    return True


def _is_float(a: Any) -> bool:
    return ops.is_tensor(a) and "float" in keras.backend.standardize_dtype(a.dtype)


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error) else ''}"
