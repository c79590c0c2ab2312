"""of(...): everything that an answer depends on, as short texts that can be compared."""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.metadata
import inspect
import json
import warnings
from collections.abc import Iterator, Mapping
from typing import Any

import keras
import numpy as np

from recommender.models import every_layer
from recommender.problem import Problem
from recommender.request import Request

# Fields of a request that name materials, which the problem holds ready for use, and those that
# change how fast an answer comes but not what it is.
ELSEWHERE = {"model", "x", "y", "validation_data", "loss", "sample_weight", "class_weight"} | {
    "backend", "max_seconds",
}  # fmt: skip
DISTRIBUTIONS = ("keras", "keras-gradopt", "numpy", "jax", "tensorflow", "tensorflow-cpu", "torch")


def of(request: Request, problem: Problem, backend: str) -> dict[str, str]:
    """The fingerprint of a request.

    Args:
        request: What was asked.
        problem: What was built of it.
        backend: Where probes run.

    Returns:
        Text by the name of the part: arguments as they are, versions, and digests of model,
        weights, data and loss.
    """
    found = {
        field.name: repr(getattr(request, field.name))
        for field in dataclasses.fields(request)
        if field.name not in ELSEWHERE
    }
    for field in dataclasses.fields(problem):
        value = getattr(problem, field.name)
        if isinstance(value, keras.Model):
            found["model"] = _digest([_architecture(value)])
            found["weights"] = _digest(value.variables)
        elif field.name not in found:
            found[field.name] = _shown(value)
    found["backend"] = f"{keras.config.backend()}, probes on {backend}"
    found["versions"] = ", ".join(_versions())
    return found


def _shown(value: Any) -> str:
    """A plain value as it is, anything larger as a digest."""
    if value is None or isinstance(value, (bool, int, float, str)):
        return repr(value)
    return _digest([value])


def _digest(values: Any) -> str:
    digest = hashlib.sha256()
    for text in _parts(list(values)):
        digest.update(text)
        digest.update(b"\0")
    return digest.hexdigest()[:12]


def _parts(value: Any) -> Iterator[bytes]:
    """A value's content, piece by piece."""
    if isinstance(value, keras.Variable):
        value = keras.ops.convert_to_numpy(value)
    if isinstance(value, np.ndarray):
        yield f"{value.dtype}{value.shape}".encode()
        yield np.ascontiguousarray(value).tobytes()
    elif isinstance(value, Mapping):
        for key in value:
            yield repr(key).encode()
            yield from _parts(value[key])
    elif isinstance(value, (list, tuple)):
        yield f"{type(value).__name__}{len(value)}".encode()
        for item in value:
            yield from _parts(item)
    elif inspect.isroutine(value) or isinstance(value, type):
        yield _source(value).encode()
    elif value is None or isinstance(value, (bool, int, float, str, bytes, np.generic)):
        yield repr(value).encode()
    elif isinstance(value, keras.losses.Loss):
        yield _source(type(value)).encode()
        yield from _parts(dict(sorted(vars(value).items())))
    else:
        yield _source(type(value)).encode()


def _architecture(model: keras.Model) -> str:
    """The model's config with layers named by their place, and the source of classes not Keras'.

    Keras numbers layers through the process: the same model made twice has other names.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that a lambda is unsafe to load: nothing is loaded
            config: Any = json.loads(model.to_json())["config"]
    except (TypeError, ValueError, NotImplementedError):
        config = {"class": type(model).__name__}
    places: dict[str, str] = {}
    for name in _names(config):
        places.setdefault(name, f"layer {len(places)}")
    sources = {_source(type(layer)) for layer in [model, *every_layer(model)]}
    return json.dumps([_renamed(config, places), sorted(sources)], sort_keys=True)


def _names(config: Any) -> Iterator[str]:
    if isinstance(config, Mapping):
        if isinstance(config.get("name"), str):
            yield config["name"]
        for value in config.values():
            yield from _names(value)
    elif isinstance(config, list):
        for value in config:
            yield from _names(value)


def _renamed(config: Any, places: Mapping[str, str]) -> Any:
    if isinstance(config, Mapping):
        return {key: _renamed(value, places) for key, value in config.items()}
    if isinstance(config, list):
        return [_renamed(value, places) for value in config]
    return places.get(config, config) if isinstance(config, str) else config


def _source(thing: Any) -> str:
    """A name, with the text of what is not a library's own."""
    name = f"{getattr(thing, '__module__', '')}.{getattr(thing, '__qualname__', repr(thing))}"
    if name.startswith("keras."):
        return name
    try:
        return name + inspect.getsource(thing)
    except (OSError, TypeError):  # typed in, or built in
        code = getattr(thing, "__code__", None)
        return name + (code.co_code.hex() if code else "")


def _versions() -> Iterator[str]:
    for name in DISTRIBUTIONS:
        try:
            yield f"{name} {importlib.metadata.version(name)}"
        except importlib.metadata.PackageNotFoundError:
            continue
