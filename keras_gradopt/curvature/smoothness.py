"""Names the layer to blame where a loss cannot be differentiated twice."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_gradopt import backend

Tensor = Any


# What half precision leaves unsymmetric is below.
_UNSYMMETRIC = 0.05
_LEFT_OUT = (
    "its products are not symmetric: a part is left out without an error, or a custom gradient is "
    "not the derivative"
)


@contextlib.contextmanager
def once_differentiable(landscape: Any) -> Iterator[None]:
    """Turns what a backend says of a missing second derivative into an error that names the layer.

    Args:
        landscape: The `DataLandscape` whose product is computed inside.

    Raises:
        ValueError: The product failed, and a layer or the loss has no second derivative.
    """
    try:
        yield
    except Exception as error:
        blamed = _culprit(landscape.model, landscape.data[0], landscape.training)
        if blamed is None:
            raise
        raise _not_twice(landscape, blamed, _first_line(error)) from error


def require_symmetry(landscape: Any, product: Callable) -> None:
    r"""Refuses a Hessian that is none, by $u^T H v = v^T H u$ for two random vectors.

    TensorFlow and torch leave out without a word what they cannot differentiate again: the second
    derivative of an operation with a gradient of its own that is computed on the host, or marked as
    once differentiable. What is left is not symmetric, as later layers still see earlier ones move;
    or it is 0 for whole variables, which are looked at more closely then.

    Args:
        landscape: The `DataLandscape`.
        product: From $v$ to $H v$, asked twice.

    Raises:
        ValueError: The products differ by more than precision allows.
    """
    u, v = np.random.default_rng(0).normal(size=(2, landscape.size))
    hu, hv = product(u), product(v)
    apart = abs(u @ hv - v @ hu)
    is_symmetric = apart <= _UNSYMMETRIC * (np.linalg.norm(hu) + np.linalg.norm(hv))
    if is_symmetric and all(np.any(part) for part in landscape.arrays(hu)):
        return
    blamed = _culprit(landscape.model, landscape.data[0], landscape.training)
    if blamed is not None:
        raise _not_twice(landscape, blamed, _LEFT_OUT)
    if is_symmetric:
        return
    raise ValueError(
        f"The gradient of {landscape.model.name!r} is not that of its loss: its derivative is not "
        "symmetric, so there are no second derivatives. Look for custom gradients in "
        "the layers and the loss."
    )


def _not_twice(landscape: Any, blamed: str, why: str) -> ValueError:
    return ValueError(
        f"The loss of {landscape.model.name!r} cannot be differentiated twice: {blamed} has no "
        f"second derivative on this backend ({why}). Take another layer or operation there, or "
        "restrict `variables` to the layers after it."
    )


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
    layers = list(leaves(model))
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


def leaves(layer: Any) -> Iterator[Any]:
    """The layers of a model, and of models inside of it, that are no models themselves."""
    inside = getattr(layer, "layers", None)
    if not inside:
        yield layer
        return
    for one in inside:
        yield from leaves(one)


def _is_smooth(f: Any, weights: list, inputs: Any) -> bool:
    """Whether the second derivatives of a layer are there, and are symmetric with what follows."""
    flat = keras.tree.flatten(inputs)
    moving = [i for i, a in enumerate(flat) if _is_float(a)]
    # A weight of a layer to follow, and those of the layer and its inputs.
    ws = [ops.ones(()), *weights, *(flat[i] for i in moving)]

    def loss(ws: list) -> Tensor:
        filled = list(flat)
        for i, a in zip(moving, ws[1 + len(weights) :], strict=True):
            filled[i] = a
        outputs = f(ws[1 : 1 + len(weights)], keras.tree.pack_sequence_as(inputs, filled))
        floats = [ops.cast(o, "float32") for o in keras.tree.flatten(outputs) if _is_float(o)]
        return sum((ops.sum(ops.sin(ws[0] * o)) for o in floats), ops.zeros(()))

    rng = np.random.default_rng(0)
    others = [rng.normal(size=tuple(w.shape)) for w in ws[1:]]
    last = [1.0, *(np.zeros_like(u) for u in others)]
    try:
        product = backend.compiled(lambda ws, vs: backend.hessian_at(loss, ws)(vs))
        along_last = product(ws, _like(ws, last))
        along_others = product(ws, _like(ws, [0.0, *others]))
    except Exception:  # noqa: BLE001 - each backend has its own for what it cannot differentiate
        return False
    pairs = zip(along_last[1:], others, strict=True)
    parts = [float(np.sum(ops.convert_to_numpy(p) * u)) for p, u in pairs]
    there, back = sum(parts), float(ops.convert_to_numpy(along_others[0]))
    return abs(there - back) <= _UNSYMMETRIC * (sum(map(abs, parts)) + abs(back)) + 1e-6


def _like(ws: list, values: list) -> list:
    return [ops.cast(ops.convert_to_tensor(v), w.dtype) for v, w in zip(values, ws, strict=True)]


def _is_float(a: Any) -> bool:
    return ops.is_tensor(a) and "float" in keras.backend.standardize_dtype(a.dtype)


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error) else ''}"
