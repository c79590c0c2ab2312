"""Private copies of models: probes never touch the caller's own."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any

import keras

from recommender.errors import RequestError
from recommender.examples import leaves, take
from recommender.models import complaint, every_layer, forward, overrides

Way = Callable[[Any], Any]


def private_copy(model: keras.Model, x: Any) -> keras.Model:
    """A built copy with the same weights; the original is only read.

    Args:
        model: The model to copy.
        x: Inputs as arrays; two rows of them build the copy.

    Raises:
        RequestError: When the model cannot be copied, does not take `x`, or has nothing to train.
    """
    twin = _clone(model)
    try:
        forward(twin, take(x, slice(0, 2)))
    except Exception as error:  # any layer of any backend may complain in its own way
        shapes = ", ".join(f"{name}: {v.shape[1:]}" for name, v in leaves(x, "x"))
        raise RequestError(
            f"the model does not accept the data (rows of shape {shapes}): {complaint(error)} "
            f"It expects inputs of shape {getattr(model, 'input_shape', 'unknown')}.",
            code="shape_mismatch",
        ) from error
    if model.built:
        _copy_weights(model, twin)
    if not twin.trainable_variables:
        raise RequestError(
            "the model has no trainable weights: no optimizer can change it. "
            "Set layer.trainable = True on the layers to train.",
            code="no_trainable_weights",
        )
    return twin


def _clone(model: keras.Model) -> keras.Model:
    """Fresh layers like the model's, so that custom classes need no registration."""
    needed = overrides(type(model), "compute_loss", "train_step", "test_step")
    ways: list[Way] = [_by_config, _by_arguments, _by_attributes]
    if isinstance(model, keras.Sequential) or getattr(model, "inputs", None):
        ways.insert(0, _by_layers)
    try:
        # A class that computes its own loss is needed; any other may become a plain model.
        return _first(ways, model, lambda twin: type(twin) is type(model) or not needed)
    except ValueError as error:
        raise RequestError(
            f"the model ({type(model).__name__}) cannot be copied, and probes must not touch "
            "yours. Give it a get_config and a from_config as keras.Model describes, or keep what "
            f"its constructor gets in attributes of the same names. {error}",
            code="unsupported_model",
        ) from error


def _copied(layer: keras.layers.Layer) -> keras.layers.Layer:
    """A fresh layer like this one."""
    if isinstance(layer, keras.Model):
        return _clone(layer)
    return _first([_by_config, _by_arguments, _by_attributes], layer, lambda twin: True)


def _first(ways: Sequence[Way], layer: Any, suits: Callable[[Any], bool]) -> Any:
    """What the first way gives that works."""
    problems = []
    for way in ways:
        try:
            twin = way(layer)
        except Exception as error:  # noqa: BLE001 - constructors and configs fail in any way
            problems.append(
                f"{way.__name__[1:].replace('_', ' ').capitalize()}: {complaint(error)}"
            )
        else:
            if suits(twin):
                return twin
    raise ValueError(" ".join(problems))


def _by_layers(model: keras.Model) -> keras.Model:
    return keras.models.clone_model(model, clone_function=_copied)


def _by_config(layer: keras.layers.Layer) -> keras.layers.Layer:
    parts = [layer]
    if isinstance(layer, keras.Model):
        parts += [*layer.layers, *every_layer(layer)]
    with keras.saving.custom_object_scope({type(part).__name__: type(part) for part in parts}):
        return type(layer).from_config(layer.get_config())


def _common(layer: keras.layers.Layer) -> dict[str, Any]:
    return {"name": layer.name, "dtype": layer.dtype_policy, "trainable": layer.trainable}


def _by_arguments(layer: keras.layers.Layer) -> keras.layers.Layer:
    """By its constructor, with the attributes that are named as the arguments are."""
    known = _common(layer)
    arguments: dict[str, Any] = {}
    for name, parameter in inspect.signature(type(layer).__init__).parameters.items():
        if parameter.kind is parameter.VAR_KEYWORD:
            arguments |= known
        elif name in known:
            arguments[name] = known[name]
        elif hasattr(layer, name):
            arguments[name] = _parts_copied(getattr(layer, name))
    return type(layer)(**arguments)


def _by_attributes(layer: keras.layers.Layer) -> keras.layers.Layer:
    """Without its constructor: whatever that has set is set again, layers afresh."""
    kind: Any = type(layer)
    twin = kind.__new__(kind)
    if isinstance(layer, keras.Model):
        keras.Model.__init__(twin, **_common(layer))
        keras.Model.compile(twin, optimizer=None)  # what that sets is not the caller's either
    else:
        keras.layers.Layer.__init__(twin, **_common(layer))
    theirs, bare = _attributes(layer), _attributes(twin)
    order = {id(part): place for place, part in enumerate(theirs["_layers"])}

    def last(name: str) -> int:
        return max((order.get(id(v), -1) for v in _flat(theirs[name])), default=-1)

    copies: dict[int, Any] = {}
    # As layers were set before, so that weights come in the same order.
    for name in sorted(theirs.keys() - bare.keys(), key=lambda name: (last(name), name)):
        value = theirs[name]
        if inspect.ismethod(value) and value.__self__ is layer:
            value = getattr(twin, value.__name__)
        setattr(twin, name, _parts_copied(value, copies))
    names = [[part.name for part in _attributes(one)["_layers"]] for one in (layer, twin)]
    if names[0] != names[1]:
        raise TypeError("its layers are not all in attributes, lists or dicts of it")
    return twin


def _attributes(layer: keras.layers.Layer) -> dict[str, Any]:
    # Torch keeps layers apart, and TensorFlow notes what it tracks in attributes of that prefix.
    found = {**vars(layer), **vars(layer).get("_modules", {})}
    return {name: value for name, value in found.items() if not name.startswith("_self_")}


def _flat(value: Any) -> list[Any]:
    return keras.tree.flatten(value) if isinstance(value, (list, tuple, dict)) else [value]


def _parts_copied(value: Any, copies: dict[int, Any] | None = None) -> Any:
    """A value with every layer in it afresh, and all that has no state as it is."""
    copies = {} if copies is None else copies

    def copied(part: Any) -> Any:
        if id(part) in copies:
            return copies[id(part)]
        if isinstance(part, keras.Variable):
            raise TypeError("a variable is set as an attribute")
        made = part
        if isinstance(part, keras.layers.Layer):
            made = _copied(part)
        elif isinstance(part, (keras.metrics.Metric, keras.random.SeedGenerator)):
            made = type(part).from_config(part.get_config())
        copies[id(part)] = made
        return made

    if isinstance(value, (list, tuple, dict)):
        return keras.tree.map_structure(copied, value)
    return copied(value)


def _copy_weights(source: keras.Model, target: keras.Model) -> None:
    shapes = [[tuple(v.shape) for v in model.weights] for model in (source, target)]
    if shapes[0] != shapes[1]:
        raise RequestError(
            f"a copy of the model ({type(source).__name__}) has other weights than the model: "
            f"{len(shapes[1])} instead of {len(shapes[0])}, or of other shapes. Give it a "
            "get_config and a from_config as keras.Model describes.",
            code="unsupported_model",
        )
    for ours, theirs in zip(target.weights, source.weights, strict=True):
        ours.assign(keras.ops.convert_to_numpy(theirs))
    # A clone starts with every layer trainable when the flag was set after construction.
    for theirs, ours in zip(every_layer(source), every_layer(target), strict=True):
        if ours.trainable != theirs.trainable:
            ours.trainable = theirs.trainable
