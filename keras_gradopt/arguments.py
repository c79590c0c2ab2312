"""Constructor arguments: stored, checked, resolved for a step, and turned into a config."""

from __future__ import annotations

import inspect
import math
import numbers
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any, ClassVar

import keras
from keras import ops

from keras_gradopt.ranges import Range

Tensor = Any
Schedule = keras.optimizers.schedules.LearningRateSchedule


class Hyperparameters(SimpleNamespace):
    """One step's hyper-parameters: numbers, a schedule's values or traced inputs.

    Always there: `step` (1 for the first update, a float tensor or a number), `numbers` (what
    `measure` found, by name) and `shared` (the shared slots, by name).
    """

    def replace(self, **changes: Any) -> Hyperparameters:
        """Returns a copy with some values changed."""
        return Hyperparameters(**{**self.__dict__, **changes})

    def cast(self, dtype: str) -> Hyperparameters:
        """The same with every tensor in another dtype; TensorFlow mixes none."""

        def converted(value: Any) -> Any:
            if isinstance(value, dict):
                return {name: converted(item) for name, item in value.items()}
            return ops.cast(value, dtype) if ops.is_tensor(value) else value

        return Hyperparameters(**{name: converted(v) for name, v in self.__dict__.items()})

    def normal(self, shape: Sequence[int], seed: Any, number: Any = 0) -> Tensor:
        """Standard normal numbers, float32: others at each step, the same again after loading.

        They follow from `seed`, the step and `number` alone, so there is no state to keep.

        Args:
            shape: Their shape.
            seed: Of the whole training, at least 0: a number or a scalar tensor.
            number: Tells the draws of one step apart, at least 0: a number or a scalar tensor.
        """
        from keras_gradopt import backend

        return backend.normal(tuple(shape), seed, self.step, number)


def is_number(value: Any) -> bool:
    """Whether `value` is a real number of Python or NumPy (not a bool)."""
    return isinstance(value, numbers.Real) and not isinstance(value, bool)


class Arguments:
    """What optimizers, transforms and schedules share: arguments by declaration.

    A subclass lists its arguments once, in the signature of `__init__`, and hands them to
    `declare`. Float arguments are hyper-parameters: they may be a number, or a schedule, and
    `resolve` gives their values at a step. Arguments that are bool, int, str or None are structure.
    """

    ranges: ClassVar[dict[str, Range]] = {}

    def declare(self, **arguments: Any) -> None:
        """Stores arguments as attributes, checking numbers against `ranges`.

        Args:
            **arguments: Name and value, as the constructor received them.

        Raises:
            ValueError: A number lies outside its range, or the type is none that is allowed.
        """
        for name, value in arguments.items():
            setattr(self, name, self._checked(name, value))

    @classmethod
    def _checked(cls, name: str, value: Any) -> Any:
        if name not in cls.all_ranges() or value is None:
            return value
        allowed = cls.all_ranges()[name]
        if isinstance(value, dict) and "class_name" in value:
            value = keras.saving.deserialize_keras_object(value)
        if is_number(value):
            value = float(value)
            allowed.check(name, value)
            return value
        if allowed.schedulable and callable(value):
            return value
        schedule = " or a schedule" if allowed.schedulable else ""
        raise ValueError(
            f"{name} must be a number in {allowed}{schedule}, received {value!r} of type "
            f"{type(value).__name__}."
        )

    @classmethod
    def all_ranges(cls) -> dict[str, Range]:
        """The ranges of the class and of its bases, by argument name."""
        merged: dict[str, Range] = {}
        for base in reversed(cls.__mro__):
            merged.update(vars(base).get("ranges", {}))
        return merged

    @classmethod
    def argument_defaults(cls) -> dict[str, Any]:
        """Arguments of `__init__` and their defaults, in order."""
        parameters = inspect.signature(cls.__init__).parameters.values()
        kinds = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
        return {p.name: p.default for p in parameters if p.kind in kinds and p.name != "self"}

    @property
    def hyperparameter_names(self) -> tuple[str, ...]:
        """Names of the arguments that are a number or a schedule, in the constructor's order."""
        ranges = self.all_ranges()
        names = dict.fromkeys([*self.argument_defaults(), *ranges])
        # What is stored, not a property: Keras' learning rate would be computed.
        stored = vars(self)
        return tuple(
            n for n in names if n in ranges and stored.get(n, stored.get(f"_{n}")) is not None
        )

    def resolve(self, count: Tensor) -> dict[str, Any]:
        """Values of the hyper-parameters after `count` steps.

        Args:
            count: Steps taken so far, 0 at first; an int or an integer tensor.

        Returns:
            Name to number or tensor.
        """
        return {name: value_at(getattr(self, name), count) for name in self.hyperparameter_names}

    def arguments_config(self) -> dict[str, Any]:
        """The arguments that `declare` stored, ready for JSON."""
        return {
            name: serialize(vars(self)[name])
            for name in self.argument_defaults()
            if name in vars(self)
        }


def value_at(value: Any, count: Tensor) -> Any:
    """A hyper-parameter's value after `count` steps: a number stays, a schedule is asked.

    Args:
        value: A number, a schedule, or a callable without arguments.
        count: Steps taken so far.
    """
    if isinstance(value, Schedule):
        return ops.cast(value(count), "float32")
    return value() if callable(value) else value


def serialize(value: Any) -> Any:
    """Turns an argument into plain data; objects of Keras keep their public names."""
    if isinstance(value, list | tuple):
        return [serialize(item) for item in value]
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, keras.optimizers.Optimizer):
        return _serialize_optimizer(value)
    return keras.saving.serialize_keras_object(value)


def _serialize_optimizer(optimizer: keras.optimizers.Optimizer) -> dict[str, Any]:
    config = keras.saving.serialize_keras_object(optimizer)
    # Keras 3.15 on torch swaps a built-in for a private subclass and would write that one's name;
    # the file must also load on the other backends.
    public = getattr(keras.optimizers, config["class_name"], None)
    if public is not None and config.get("registered_name") in (None, config["class_name"]):
        config.update(module="keras.optimizers", registered_name=None)
    return config


def positive_int(name: str, value: Any, least: int = 1) -> int:
    """Checks a whole number.

    Args:
        name: The argument's name, for the message.
        value: What was received.
        least: The smallest value allowed.

    Returns:
        The value as an `int`.

    Raises:
        ValueError: `value` is not a whole number of at least `least`.
    """
    if not is_number(value) or not math.isfinite(value) or value != int(value) or value < least:
        raise ValueError(f"{name} must be a whole number >= {least}, received {value!r}.")
    return int(value)
