"""What is read of a config that the walk has copied."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from api.gate import allowed
from api.gate.limits import NAME_LENGTH
from api.gate.records import LossFacts, ModelFacts


def read_facts(model: dict[str, Any], compiled: Any) -> ModelFacts:
    """What there is to know of a model.

    Args:
        model: Its config as the walk has copied it, which the facts keep.
        compiled: The "compile_config" of the upload, not kept; only the loss is read.
    """
    counts: dict[str, int] = {}
    for layer in _every_layer(model):
        counts[layer] = counts.get(layer, 0) + 1
    name = model["config"].get("name")
    return ModelFacts(
        name=name[:NAME_LENGTH] if isinstance(name, str) else "model",
        layers=dict(sorted(counts.items())),
        input_shape=_input_shape(model),
        output_units=_output_units(model),
        loss=_loss(compiled),
        config=model,
    )


def _every_layer(model: dict[str, Any]) -> Iterator[str]:
    for layer in model["config"]["layers"]:
        if "layers" in layer["config"] and (
            allowed.is_model(layer) or layer["class_name"] == "Pipeline"
        ):
            yield from _every_layer(layer)
        elif layer["module"] == "keras.layers" and layer["class_name"] != "InputLayer":
            yield layer["class_name"]


def _input_shape(model: dict[str, Any]) -> tuple[int | None, ...] | None:
    config = model["config"]
    layers = config["layers"]
    if "input_layers" in config:
        names = list(references(config["input_layers"]))
        first = _named(layers, names[0]) if len(names) == 1 else None
    else:
        first = 0 if layers else None
    if first is None:
        return None
    if allowed.is_model(layers[first]):
        return _input_shape(layers[first])
    shape = layers[first]["config"].get("batch_shape", config.get("build_input_shape"))
    if not isinstance(shape, list) or not shape:
        return None
    if not all(size is None or (type(size) is int and size >= 0) for size in shape):
        return None
    return tuple(shape[1:])


def _output_units(model: dict[str, Any]) -> int | None:
    config = model["config"]
    layers = config["layers"]
    position: int | None = len(layers) - 1
    if "output_layers" in config:
        names = list(references(config["output_layers"]))
        position = _named(layers, names[0]) if len(names) == 1 else None
    for _ in layers:  # at most once through the graph, should it have a loop
        if position is None or position < 0:
            break
        layer = layers[position]
        if allowed.is_model(layer):
            return _output_units(layer)
        if layer["class_name"] == "Dense":
            units = layer["config"].get("units")
            return units if type(units) is int else None
        if layer["class_name"] not in allowed.WIDTH_KEEPING:
            break
        if "output_layers" in config:
            names = list(references(layer.get("inbound_nodes")))
            position = _named(layers, names[0]) if len(names) == 1 else None
        else:
            position -= 1
    return None


def references(tree: Any) -> Iterator[str]:
    """The names of layers in ["name", 0, 0], however nested."""
    if isinstance(tree, list):
        if [type(item) for item in tree] == [str, int, int]:
            yield tree[0]
        else:
            for item in tree:
                yield from references(item)
    elif isinstance(tree, dict):
        for item in tree.values():
            yield from references(item)


def _named(layers: list[dict[str, Any]], name: str) -> int | None:
    for i, layer in enumerate(layers):
        if layer.get("name", layer["config"].get("name")) == name:
            return i
    return None


def _loss(compiled: Any) -> LossFacts | None:
    loss = compiled.get("loss") if isinstance(compiled, dict) else None
    if isinstance(loss, str):
        return LossFacts(allowed.LOSS_NAMES[loss], False) if loss in allowed.LOSS_NAMES else None
    if not isinstance(loss, dict):
        return None
    module, name, config = (loss.get(key) for key in ("module", "class_name", "config"))
    if name == "function":
        known = module in ("builtins", "keras.losses") and isinstance(config, str)
        return _loss({"loss": config}) if known else None
    if module != "keras.losses" or not isinstance(name, str) or not isinstance(config, dict):
        return None
    chosen = {key: config[key] for key in config.keys() - {"name", "dtype", "from_logits"}}
    plain = all(
        key in allowed.PLAIN_LOSS and chosen[key] == allowed.PLAIN_LOSS[key] for key in chosen
    )
    from_logits = config.get("from_logits", False)
    if name not in allowed.LOSSES or not plain or not isinstance(from_logits, bool):
        return None
    return LossFacts(allowed.LOSSES[name], from_logits)
