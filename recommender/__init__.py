"""Measured advice on which optimizer, learning rate and schedule to train a Keras model with."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from recommender.advise import recommend
    from recommender.errors import RecommenderError, RequestError
    from recommender.report import Advice

__all__ = ["Advice", "RecommenderError", "RequestError", "recommend"]

# Where each public name lives; importing this package must not import Keras (see `__getattr__`).
_HOME = {
    "Advice": "recommender.report",
    "RecommenderError": "recommender.errors",
    "RequestError": "recommender.errors",
    "recommend": "recommender.advise",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOME[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
