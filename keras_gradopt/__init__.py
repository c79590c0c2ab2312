"""Every optimization method that practitioners know, as Keras 3 optimizers on three backends.

The public names are the optimizer classes (`keras_gradopt.Adam`, ...), the folders `schedules`,
`transforms`, `switches`, `callbacks`, `curvature`, `learned` and `sampling`, the functions `bind`,
`get`, `methods` and `update_batch_norm`; `Damping`, `Objective` and `Optimizer` are for those who
write methods.
Importing this package does not import Keras; touching a class does.
"""

from __future__ import annotations

import importlib
from typing import Any

from keras_gradopt import registry

__version__ = "0.2.0"

_FUNCTIONS = {
    "bind": "binding",
    "Damping": "damping",
    "get": "registry",
    "methods": "catalogue",
    "Objective": "objective",
    "Optimizer": "optimizer",
    "update_batch_norm": "batch_norm",
}
_FOLDERS = (*registry.OTHER_FAMILIES, "callbacks", "curvature", "learned", "sampling")


def __getattr__(name: str) -> Any:
    if name in _FUNCTIONS:
        registry.load()
        return getattr(importlib.import_module(f"{__name__}.{_FUNCTIONS[name]}"), name)
    if name in _FOLDERS:
        registry.load()
        return importlib.import_module(f"{__name__}.{name}")
    # Classes are capitalised; else fail fast: `from keras_gradopt import backend` asks here before
    # Python looks for the submodule.
    if name[:1].isupper():
        registry.load()
        if name in (classes := registry.optimizer_classes()):
            return classes[name]
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *_FUNCTIONS, *_FOLDERS, *registry.optimizer_classes()])


registry.load_with_keras()
