"""Switches: when a hybrid hands over from its first part to the other.

One file per criterion. A switch keeps no state of its own: the hybrid keeps it, among its
variables, and asks after each step of its first part.
"""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import keras

from keras_gradopt import registry
from keras_gradopt.arguments import Arguments, is_number
from keras_gradopt.slot import Slot

if TYPE_CHECKING:
    from keras_gradopt.objective import Objective

Tensor = Any
# By slot's name: a scalar, or a list of tensors for slots beside the variables.
State = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Seen:
    """What a switch gets to see of one step of the first part.

    Attributes:
        step: The step's number, 1 for the first, float32.
        ws: Weights at which the step's gradient was taken.
        gs: That gradient, of the weights' shapes; under accumulation the last minibatch's.
        loss: The mean of the losses observed since the step before, float32; for switches that
            follow the loss.
        objective: The minibatch's loss over the weights, for switches that need it.
    """

    step: Tensor
    ws: list[Tensor]
    gs: list[Tensor]
    loss: Tensor | None = None
    objective: Objective | None = None


@dataclasses.dataclass(frozen=True)
class Decision:
    """What a switch makes of it.

    Attributes:
        due: Whether to hand over after this step, a boolean scalar.
        state: The new state, of the shapes of the old one.
        numbers: What decided, scalars: those that the switch names in `numbers`.
    """

    due: Tensor
    state: State
    numbers: dict[str, Tensor]


class Switch(Arguments):
    """Base of switches: declares state and numbers, and defines `decide` and `reason`."""

    # Whether it reads the losses that a bound model observes.
    follows_loss: ClassVar[bool] = False
    # Whether it reads gradients.
    reads_gradient: ClassVar[bool] = False
    # Whether it evaluates the loss itself.
    needs_objective: ClassVar[bool] = False
    # Names of the numbers that decide.
    numbers: ClassVar[tuple[str, ...]] = ()

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        keras.saving.register_keras_serializable(package="keras_gradopt")(cls)

    def slots(self) -> Sequence[Slot]:
        """The state: scalars, of shape (), or beside each variable, of shape None."""
        return ()

    def decide(self, seen: Seen, state: State) -> Decision:
        """Whether to hand over after this step, as a pure function.

        Args:
            seen: What is seen of the step.
            state: The state before.
        """
        raise NotImplementedError(f"{type(self).__name__} must define decide(seen, state).")

    def reason(self, numbers: Mapping[str, float]) -> str:
        """Why it was due, as a sentence without its full stop.

        Args:
            numbers: What decided.
        """
        raise NotImplementedError(f"{type(self).__name__} must define reason(numbers).")

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments, ready for JSON."""
        return self.arguments_config()

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Switch:
        """Makes the switch that `get_config` described."""
        return cls(**config)


def made(value: Any) -> Switch:
    """A switch from itself, a number of steps, a name in any spelling, or a config.

    Raises:
        ValueError: It is none of these; the message lists the names.
    """
    if is_number(value):
        from keras_gradopt.switches.after_steps import AfterSteps

        return AfterSteps(value)
    if isinstance(value, dict):
        value = keras.saving.deserialize_keras_object(value)
    if isinstance(value, Switch):
        return value
    classes = registry.members(__name__)
    if not isinstance(value, str):
        raise ValueError(
            f"switch must be a number of steps, one of keras_gradopt.switches or its name, "
            f"received {value!r} of type {type(value).__name__}. Names are {', '.join(classes)}."
        )
    by_name = {registry.plain(name): cls for name, cls in classes.items()}
    # "plateau" is "on plateau".
    by_name.update({name.removeprefix("on"): cls for name, cls in by_name.items()})
    wanted = registry.plain(value.rpartition(">")[2].replace(" ", ""))
    if wanted not in by_name:
        near = [by_name[n].__name__ for n in difflib.get_close_matches(wanted, by_name, n=1)]
        guess = f" Did you mean {near[0]}?" if near else ""
        raise ValueError(f"Unknown switch {value!r}.{guess} Known are {', '.join(classes)}.")
    cls = by_name[wanted]
    try:
        return cls()
    except TypeError as error:
        raise ValueError(
            f"{cls.__name__} cannot be made from its name alone ({error}). Give "
            f"keras_gradopt.switches.{cls.__name__}(...)."
        ) from error


__getattr__, __dir__ = registry.lazy_members(__name__)
