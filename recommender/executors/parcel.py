"""Parcels: models, losses and arrays in files, for a process of this user on another backend."""

from __future__ import annotations

import inspect
import io
import pickle
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cloudpickle
import keras
import numpy as np
from numpy.typing import NDArray

# Arrays from this size on lie in files of their own, which the reader maps instead of reading.
LARGE_BYTES = 2**16
CONTENT = "content.pickle"


def pack(content: Any, folder: Path) -> None:
    """Write anything that holds models, losses and arrays.

    Models go as their Keras config and weights, other objects of Keras as class and attributes,
    classes and functions that the reader cannot import by value.

    Args:
        content: What to write.
        folder: An empty folder that outlives the reader.

    Raises:
        Exception: Whatever a part raises that cannot be pickled.
    """
    buffer = io.BytesIO()
    _Pickler(buffer, folder).dump(content)
    (folder / CONTENT).write_bytes(buffer.getvalue())


def unpack(folder: Path) -> Any:
    """What was packed; only for folders that this user's own process wrote."""
    return pickle.loads((folder / CONTENT).read_bytes())  # noqa: S301 - see above


class _Pickler(cloudpickle.Pickler):
    def __init__(self, file: io.BytesIO, folder: Path) -> None:
        super().__init__(file)
        self._folder = folder
        self._files = 0

    def reducer_override(self, obj: Any) -> Any:
        if isinstance(obj, keras.Model):
            arrays = [np.array(keras.ops.convert_to_numpy(v)) for v in obj.variables]
            with warnings.catch_warnings():
                # A lambda is unsafe from strangers; this is the caller's own.
                warnings.simplefilter("ignore")
                config = keras.saving.serialize_keras_object(obj)
            flags = [layer.trainable for layer in _layers(obj)]
            return _model, (config, _customs(obj), arrays, flags)
        if isinstance(obj, keras.losses.Loss):
            return _plain, (type(obj), dict(vars(obj)))
        if isinstance(obj, np.ndarray) and obj.nbytes >= LARGE_BYTES and obj.dtype.kind in "fiub":
            self._files += 1
            file = self._folder / f"{self._files}.npy"
            np.save(file, obj)
            return _mapped, (str(file),)
        return super().reducer_override(obj)


def _mapped(file: str) -> NDArray[Any]:
    found: NDArray[Any] = np.load(file, mmap_mode="r")
    return found


def _plain(kind: type, attributes: dict[str, Any]) -> Any:
    made: Any = object.__new__(kind)
    vars(made).update(attributes)
    return made


def _model(
    config: Any, customs: dict[str, Any], arrays: list[NDArray[Any]], flags: list[bool]
) -> keras.Model:
    """The model with these values in its variables, whatever it drew itself."""
    model = keras.saving.deserialize_keras_object(config, custom_objects=customs, safe_mode=False)
    for layer, flag in zip(_layers(model), flags, strict=True):
        if layer.trainable != flag:
            layer.trainable = flag
    for variable, array in zip(model.variables, arrays, strict=True):
        variable.assign(array)
    return model


def _layers(model: Any) -> Iterator[Any]:
    for layer in getattr(model, "layers", ()):
        yield layer
        yield from _layers(layer)


def _customs(model: keras.Model) -> dict[str, Any]:
    """The classes and functions that the model's config names and Keras does not know."""
    found: dict[str, Any] = {}
    for part in [model, *_layers(model)]:
        for thing in [type(part), *vars(part).values()]:
            kind = thing if inspect.isroutine(thing) or isinstance(thing, type) else type(thing)
            if not _is_custom(kind):
                continue
            found[kind.__name__] = kind
            found[keras.saving.get_registered_name(kind)] = kind
    return found


def _is_custom(thing: Any) -> bool:
    home = (getattr(thing, "__module__", None) or "builtins").partition(".")[0]
    if home in ("builtins", "keras", "numpy", "collections"):
        return False
    return inspect.isfunction(thing) or hasattr(thing, "get_config")
