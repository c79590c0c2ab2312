"""An optimizer with its hyper-parameters at one constant learning rate: what a probe runs."""

from __future__ import annotations

import functools
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from recommender.errors import RequestError

if TYPE_CHECKING:
    import keras


@dataclass(frozen=True)
class Setting:
    """One optimizer of `keras_gradopt` with its arguments.

    Attributes:
        method: Its name in the catalogue.
        learning_rate: The constant rate, above 0.
        config: Further constructor arguments as (name, value) pairs.
    """

    method: str
    learning_rate: float
    config: tuple[tuple[str, Any], ...] = ()

    def optimizer(self, learning_rate: Any = None) -> keras.optimizers.Optimizer:
        """A fresh optimizer, at another rate or on a schedule when one is given."""
        rate = self.learning_rate if learning_rate is None else learning_rate
        return optimizer_class(self.method)(learning_rate=rate, **dict(self.config))

    @property
    def rule(self) -> str:
        """Equal for settings that differ in the learning rate only."""
        return json.dumps([self.method, list(self.config)])

    @property
    def class_name(self) -> str:
        """Its class in `keras_gradopt`."""
        return optimizer_class(self.method).__name__

    @property
    def label(self) -> str:
        """The setting in a few words, such as `Adam 0.003`."""
        extra = "".join(f" {name}={value:g}" for name, value in self.config if value is not True)
        return f"{self.class_name} {self.learning_rate:.3g}{extra}"


@functools.cache
def optimizer_class(method: str) -> type[Any]:
    """The class of a catalogue name in any spelling.

    Raises:
        RequestError: When there is none; the message lists the closest names.
    """
    from keras_gradopt import registry

    try:
        return registry.find(method)
    except ValueError as error:
        raise RequestError(str(error), code="unknown_optimizer") from error
