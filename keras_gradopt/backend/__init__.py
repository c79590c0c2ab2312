"""The running backend's differentiation, randomness and engine, under one set of names."""

from __future__ import annotations

import importlib
from typing import Any

import keras

from keras_gradopt.backend import common

SUPPORTED = ("jax", "tensorflow", "torch")
_name = keras.backend.backend()
_module = importlib.import_module(f"{__name__}.{_name}") if _name in SUPPORTED else None


def __getattr__(name: str) -> Any:
    if name.startswith("_"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    if _module is None:
        raise RuntimeError(
            f"keras_gradopt cannot train on the Keras backend {_name!r}, which has no gradients. "
            f"Set the environment variable KERAS_BACKEND to one of {', '.join(SUPPORTED)} before "
            "Keras is imported."
        )
    return getattr(_module, name, None) or getattr(common, name)
