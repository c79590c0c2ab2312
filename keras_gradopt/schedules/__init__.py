"""Schedules for any hyper-parameter: learning rate, momentum, weight decay, clipping, damping.

One file per schedule. They are Keras learning-rate schedules, so they also work with Keras' own
optimizers. Step 0 is the first step.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

from keras_gradopt import registry
from keras_gradopt.arguments import Arguments
from keras_gradopt.schedules.large_batch import large_batch_scale as large_batch_scale
from keras_gradopt.slot import Slot

Tensor = Any


class Schedule(Arguments, keras.optimizers.schedules.LearningRateSchedule):
    """Base of schedules: defines `at(step)` on a float step, the rest is common."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        keras.saving.register_keras_serializable(package="keras_gradopt")(cls)

    def at(self, step: Tensor) -> Tensor:
        """The value at a step.

        Args:
            step: Steps taken so far, 0 at first, a float32 tensor of any shape.
        """
        raise NotImplementedError(f"{type(self).__name__} must define at(step).")

    def __call__(self, step: Any) -> Tensor:
        """The value at a step.

        Args:
            step: Steps taken so far, 0 at first: a number or a tensor.

        Returns:
            A float32 tensor of the shape of `step`.
        """
        return ops.cast(self.at(ops.cast(step, "float32")), "float32")

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments, ready for JSON."""
        return self.arguments_config()

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Schedule:
        """Makes the schedule that `get_config` described."""
        return cls(**config)


class ObservesLoss(Schedule):
    """Base of schedules that follow the training loss: state that moves with each loss observed.

    The optimizer that such a schedule is given to builds its state, keeps it among its variables,
    and hands it the losses, see `keras_gradopt.Optimizer.observe`.

    Attributes:
        state: The optimizer's variables that hold the state, by name; None before.
    """

    state: dict[str, Any] | None = None

    def slots(self) -> Sequence[Slot]:
        """The state, scalars."""
        raise NotImplementedError(f"{type(self).__name__} must define slots().")

    def observed(self, loss: Tensor, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """The state after one more loss, as a pure function.

        Args:
            loss: A scalar, float32.
            state: The state before, by name.
        """
        raise NotImplementedError(f"{type(self).__name__} must define observed(loss, state).")

    def keep_state(self, variables: dict[str, Any]) -> None:
        """Takes the variables that hold the state.

        Raises:
            ValueError: Another optimizer keeps this schedule's state.
        """
        if self.state is not None:
            raise ValueError(
                f"This {type(self).__name__} belongs to another optimizer or argument, whose loss "
                "it follows. Make a new one for each."
            )
        self.state = variables


def observers(value: Any) -> list[ObservesLoss]:
    """The schedules inside a schedule that follow the loss, itself included."""
    if isinstance(value, list | tuple):
        return [found for item in value for found in observers(item)]
    if not isinstance(value, Schedule):
        return []
    own = [value] if isinstance(value, ObservesLoss) else []
    return own + [found for item in vars(value).values() for found in observers(item)]


def as_schedule(value: Any) -> Any:
    """The schedule that a config describes; schedules and numbers as they are."""
    if isinstance(value, dict):
        value = keras.saving.deserialize_keras_object(value)
    return value


def value_of(schedule: Any, step: Tensor) -> Tensor:
    """The value of a schedule or a number at a step."""
    return schedule(step) if callable(schedule) else ops.zeros_like(step) + schedule


def power(base: float, exponent: Tensor) -> Tensor:
    """`base ** exponent` for exponents that grow with the step.

    The logarithm is taken in double precision: 0.9999 rounded to float32 and raised to the step is
    off by 2e-4 of itself after 10,000 steps.

    Args:
        base: Above 0.
        exponent: A float32 tensor of any shape.
    """
    return ops.exp(math.log(base) * exponent)


__getattr__, __dir__ = registry.lazy_members(__name__)
