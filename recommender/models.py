"""Models: what they are made of, calling them, and making them from descriptions."""

from __future__ import annotations

import copy
import inspect
import json
import re
from collections.abc import Mapping
from typing import Any

import keras

from recommender import synthetic
from recommender.errors import RequestError


def overrides(kind: type, *methods: str) -> bool:
    """Whether a class of models has its own one of these methods."""
    return any(getattr(kind, name) is not getattr(keras.Model, name) for name in methods)


def overrides_loss(model: keras.Model) -> bool:
    """Whether the model's class has a `compute_loss` of its own."""
    return overrides(type(model), "compute_loss")


def adds_loss(model: keras.Model) -> bool:
    """Whether layers added a loss when the model was last called; penalties on weights are none."""
    penalties = sum(v.regularizer is not None for v in model.trainable_variables)
    return len(model.losses) > penalties


def has_own_step(model: keras.Model) -> bool:
    """Whether the model's class has a `train_step` or `test_step` of its own."""
    return overrides(type(model), "train_step", "test_step")


def training_flag(model: keras.Model, training: bool) -> dict[str, bool]:
    """The `training` argument for a model whose `call` takes one, nothing for any other."""
    return flag_of(model.call, training)


def flag_of(function: Any, training: bool) -> dict[str, bool]:
    """The `training` argument for a function that takes one, nothing for any other."""
    parameters = inspect.signature(function).parameters
    takes = "training" in parameters or any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    return {"training": training} if takes else {}


def forward(model: keras.Model, x: Any) -> Any:
    """The model's output in inference mode."""
    return model(x, **training_flag(model, training=False))


def complaint(error: Exception) -> str:
    """What a layer said, without Keras' line about where it was called from."""
    plain = re.sub(r"\x1b\[[0-9;]*m", "", str(error))  # Keras sets its messages in bold
    lines = [line.strip() for line in plain.splitlines() if line.strip()]
    said = [line for line in lines if not line.startswith("Exception encountered when calling")]
    return next(iter(said or lines), type(error).__name__).rstrip(".") + "."


def every_layer(model: keras.Model) -> list[keras.layers.Layer]:
    """The layers of a model and of the models inside it."""
    found: list[keras.layers.Layer] = []
    for layer in model.layers:
        inside = getattr(layer, "layers", None)
        found.extend(every_layer(layer) if inside else [layer])
    return found


def model_from_description(description: Any, summary: synthetic.DataSummary) -> keras.Model:
    """A model from a Keras config (dict or JSON text) or from a family summary.

    Raises:
        RequestError: When neither can be recognised.
    """
    if isinstance(description, str):
        try:
            description = json.loads(description)
        except json.JSONDecodeError as error:
            raise RequestError(
                f"model is text but not JSON: {error}. Pass model.to_json(), a config or "
                "a family summary.",
                code="unsupported_model",
            ) from error
    if not isinstance(description, Mapping):
        raise RequestError(
            f"model must be a Keras model or its description, received "
            f"{type(description).__name__}.",
            code="unsupported_model",
        )
    if synthetic.is_family(description):
        return synthetic.build_family(description, summary)
    config: Any = copy.deepcopy(dict(description))
    try:
        if "class_name" in config:
            model = keras.saving.deserialize_keras_object(config, safe_mode=True)
        elif "input_layers" in config:
            model = keras.Model.from_config(config)
        else:
            model = keras.Sequential.from_config(config)
    except Exception as error:  # a config may be wrong in any way
        raise RequestError(
            f"the model config cannot be read: {error}. Pass model.get_config(), model.to_json() "
            f"or a family summary ({', '.join(synthetic.FAMILIES)}).",
            code="unsupported_model",
        ) from error
    if not isinstance(model, keras.Model):
        raise RequestError(
            f"the config describes a {type(model).__name__}, a keras.Model is expected.",
            code="unsupported_model",
        )
    return model
