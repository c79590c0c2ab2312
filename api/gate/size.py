"""How large a model is at least, by the arithmetic of its config, before anything is built."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from api.gate import allowed
from api.gate.facts import references
from api.gate.limits import MAX_ACTIVATION_BYTES, MAX_PARAMETERS
from api.gate.records import Refused
from api.gate.refusals import ADVISE

Config = dict[str, Any]
# Of one example; None where it is not known, or not its length along that axis.
Shape = tuple[int | None, ...] | None
FLOAT_BYTES = 4
GATES = {"SimpleRNN": 1, "GRU": 3, "LSTM": 4}


def check_size(model: Config) -> None:
    """Refuse a model that is too large whatever is fed to it.

    Counted is what is certain: a layer whose input's shape is not known counts as if each axis of
    that were 1 long, so the true model is never smaller.

    Args:
        model: A config that was checked.

    Raises:
        Refused: It has more parameters, or holds more numbers for one example, than may be.
    """
    parameters, numbers, _ = _model(model, None)
    if parameters > MAX_PARAMETERS:
        raise Refused(
            "model_too_large",
            f"The model has at least {parameters:.3g} parameters; at most {MAX_PARAMETERS:.3g} are "
            f"probed here. Send a smaller model, {ADVISE}.",
        )
    if numbers * FLOAT_BYTES > MAX_ACTIVATION_BYTES:
        raise Refused(
            "model_too_large",
            f"One example takes at least {numbers * FLOAT_BYTES / 2**30:.3g} GiB inside the model; "
            f"at most {MAX_ACTIVATION_BYTES / 2**30:.3g} GiB may be. Send a smaller model, "
            f"{ADVISE}.",
        )


def _model(model: Config, given: Shape) -> tuple[int, int, Shape]:
    """Parameters, numbers held for one example, and the shape of the last layer's output."""
    layers = model["config"]["layers"]
    graph = "input_layers" in model["config"]
    shapes: dict[str, Shape] = {}
    parameters = numbers = 0
    last = given
    for layer in layers:
        name = layer.get("name", layer["config"].get("name"))
        before = last
        if graph:
            sources = [one for one in references(layer.get("inbound_nodes")) if one in shapes]
            before = shapes[sources[0]] if len(sources) == 1 else None
        own, inside, last = _layer(layer, before)
        if isinstance(name, str):
            shapes[name] = last
        parameters += own
        numbers += inside + (math.prod(length or 1 for length in last) if last else 0)
    return parameters, numbers, last


def _layer(layer: Config, before: Shape) -> tuple[int, int, Shape]:
    """Parameters, numbers held beside its output, and the shape of its output."""
    kind, config = layer["class_name"], layer["config"]
    if allowed.is_model(layer):
        return _model(layer, before)
    if kind == "InputLayer":
        shape = config.get("batch_shape")
        known = isinstance(shape, list) and shape
        return 0, 0, tuple(_length(one) for one in shape[1:]) if known else None
    if kind in allowed.WIDTH_KEEPING:
        return 0, 0, before
    rule = next((rule for kinds, rule in RULES if kind in kinds), None)
    if rule is None:
        return 0, 0, None
    parameters, shape = rule(kind, config, before)
    return parameters, 0, shape


Rule = Callable[[str, Config, Shape], tuple[int, Shape]]


def _dense(_: str, config: Config, before: Shape) -> tuple[int, Shape]:
    units = _size(config.get("units"))
    return (_last(before) + 1) * units, None if before is None else (*before[:-1], units)


def _embedding(_: str, config: Config, before: Shape) -> tuple[int, Shape]:
    width = _size(config.get("output_dim"))
    table = _size(config.get("input_dim")) * width
    return table, None if before is None else (*before, width)


def _recurrent(kind: str, config: Config, before: Shape) -> tuple[int, Shape]:
    units = _size(config.get("units"))
    every = config.get("return_sequences") is True
    steps = before[0] if before else None
    return GATES[kind] * units * (_last(before) + units), (steps, units) if every else (units,)


def _convolution(kind: str, config: Config, before: Shape) -> tuple[int, Shape]:
    filters, axes = _size(config.get("filters")), int(kind[4])
    kernel = _sizes(config.get("kernel_size"), axes)
    inputs = max(1, _last(before) // _size(config.get("groups")))
    parameters = math.prod(kernel) * inputs * filters
    if config.get("data_format") == "channels_first" or kind.endswith("Transpose"):
        return parameters, None
    if before is None or len(before) != axes + 1:
        return parameters, None
    strides = _sizes(config.get("strides"), axes)
    return parameters, (*_along(before[:-1], kernel, strides, config), filters)


def _pooling(kind: str, config: Config, before: Shape) -> tuple[int, Shape]:
    axes = int(kind[-2])
    if before is None or len(before) != axes + 1:
        return 0, None
    size = _sizes(config.get("pool_size"), axes)
    strides = _sizes(config.get("strides"), axes) if config.get("strides") else size
    return 0, (*_along(before[:-1], size, strides, config), before[-1])


def _global_pooling(_: str, config: Config, before: Shape) -> tuple[int, Shape]:
    plain = config.get("data_format") != "channels_first" and config.get("keepdims") is not True
    return 0, (before[-1],) if before and plain else None


def _flatten(_: str, __: Config, before: Shape) -> tuple[int, Shape]:
    if before is None or None in before:
        return 0, None
    return 0, (math.prod(length or 0 for length in before),)


RULES: tuple[tuple[frozenset[str], Rule], ...] = (
    (frozenset({"Dense"}), _dense),
    (frozenset({"Embedding"}), _embedding),
    (frozenset(GATES), _recurrent),
    (frozenset(f"Conv{n}D{t}" for n in (1, 2, 3) for t in ("", "Transpose")), _convolution),
    (frozenset(f"{k}Pooling{n}D" for n in (1, 2, 3) for k in ("Max", "Average")), _pooling),
    (
        frozenset(f"Global{k}Pooling{n}D" for n in (1, 2, 3) for k in ("Max", "Average")),
        _global_pooling,
    ),
    (frozenset({"Flatten"}), _flatten),
)


def _along(
    lengths: tuple[int | None, ...], window: list[int], strides: list[int], config: Config
) -> tuple[int | None, ...]:
    """Lengths of what a window gives that moves by strides."""
    dilated = any(step != 1 for step in _sizes(config.get("dilation_rate"), len(window)))
    same = config.get("padding") == "same"
    if dilated or config.get("data_format") == "channels_first":
        return tuple(None for _ in lengths)
    return tuple(
        None if n is None else max(0, math.ceil(n / s) if same else (n - w) // s + 1)
        for n, w, s in zip(lengths, window, strides, strict=True)
    )


def _last(shape: Shape) -> int:
    return (shape[-1] or 1) if shape else 1


def _length(value: Any) -> int | None:
    return value if type(value) is int and value >= 0 else None


def _size(value: Any) -> int:
    return value if type(value) is int and value > 0 else 1


def _sizes(value: Any, axes: int) -> list[int]:
    found = list(value) if isinstance(value, (list, tuple)) else [value] * axes
    return [_size(one) for one in found] if len(found) == axes else [1] * axes
