"""Composite: an optimizer made of others, which shows Keras the state of all of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import keras
from keras.src.utils import tracking

from keras_gradopt import nested, registry
from keras_gradopt.optimizer import Optimizer

Tensor = Any
Variable = Any
# Of the common arguments these are the composite's; the others act where the gradient is used.
_OWN_BASE_ARGUMENTS = ("name", "loss_scale_factor")


class Composite(Optimizer):
    """Base of optimizers made of others: wrappers of one, combinations of two.

    Rates, clipping, weight decay, accumulation, averaging and schedules are the parts': give them
    there.

    Args:
        parts: By argument name, what the parts are made from: an optimizer not used before, a name,
            or a config.
        **kwargs: `name` and `loss_scale_factor`, as in `keras_gradopt.Optimizer`; the factor is
            taken over from a part that has one.

    Raises:
        ValueError: A part was built before or is none, or a common argument belongs to it.
    """

    # The parts keep them.
    keeps_lost_digits = False

    @tracking.no_automatic_dependency_tracking
    def __init__(self, parts: Mapping[str, Any], **kwargs: Any) -> None:
        misplaced = sorted(
            set(kwargs) & set(Optimizer.argument_defaults()) - set(_OWN_BASE_ARGUMENTS)
        )
        if misplaced:
            one = "its inner optimizer" if len(parts) == 1 else "its parts"
            raise ValueError(
                f"{type(self).__name__} takes {', '.join(misplaced)} through {one}: give it to "
                f"`{'` and `'.join(parts)}` instead."
            )
        made = {name: _made(name, given) for name, given in parts.items()}
        super().__init__(learning_rate=0.0, **kwargs)
        self._part_names = tuple(made)
        for name, part in made.items():
            setattr(self, name, part)
        self._take_loss_scale_factor()

    def _take_loss_scale_factor(self) -> None:
        """Gradients are unscaled once, before any part sees them."""
        factors = {p.loss_scale_factor for p in self.parts if p.loss_scale_factor is not None}
        if len(factors) > 1:
            raise ValueError(
                f"The parts of {type(self).__name__} have the loss_scale_factors "
                f"{sorted(factors)}, but there is one loss. Give one factor to "
                f"{type(self).__name__} and none to its parts."
            )
        for factor in factors:
            self.loss_scale_factor = factor
        for part in self.parts:
            part.loss_scale_factor = None

    @classmethod
    def split_arguments(cls, arguments: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
        """Common arguments as those of the composite, and those of its parts."""
        own = {k: v for k, v in arguments.items() if k in _OWN_BASE_ARGUMENTS}
        return own, {k: v for k, v in arguments.items() if k not in own}

    @property
    def parts(self) -> tuple[keras.optimizers.Optimizer, ...]:
        """The optimizers that it is made of."""
        return tuple(vars(self)[name] for name in self._part_names)

    # ------------------------------------------------------------------ the step

    @tracking.no_automatic_dependency_tracking
    def build(self, variables: Sequence[Variable]) -> None:
        """Creates the parts' state and its own."""
        if self.built:
            return
        for part in self.parts:
            part.build(list(variables))
        super().build(variables)

    def update_step(self, gradient: Tensor, variable: Variable, learning_rate: Any) -> None:
        """Not defined for one variable alone: the parts step all of them."""
        raise NotImplementedError(
            f"{type(self).__name__} steps all variables together: call apply(grads, variables)."
        )

    def transition(self, *args: Any, **kwargs: Any) -> Any:
        """Not defined: a part may be one of Keras' own, which is no pure function."""
        raise NotImplementedError(
            f"{type(self).__name__} has no pure step: call apply or stateless_apply."
        )

    # ------------------------------------------------------------------ Keras' own interface

    @property
    def variables(self) -> list[Variable]:
        """Its own variables, then those of the parts."""
        return [*self._variables, *(v for part in self.parts for v in part.variables)]

    def set_weights(self, weights: Sequence[Any]) -> None:
        """Sets its own and the parts' state, in the order of `variables`."""
        start = len(self._variables)
        super().set_weights(weights[:start])
        for part in self.parts:
            end = start + len(part.variables)
            part.set_weights(weights[start:end])
            start = end

    def exclude_from_weight_decay(
        self, var_list: Sequence[Variable] | None = None, var_names: Sequence[str] | None = None
    ) -> None:
        """Excludes variables from the parts' weight decay."""
        for part in self.parts:
            part.exclude_from_weight_decay(var_list, var_names)

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments, ready for JSON; `from_config` takes them back."""
        config = {"name": self.name, "loss_scale_factor": self.loss_scale_factor}
        return {**config, **self.arguments_config()}


def _made(name: str, given: Any) -> keras.optimizers.Optimizer:
    """A part from what was given for the argument `name`."""
    part = given
    if isinstance(given, str) and ">" not in given:
        try:
            part = keras.optimizers.get(given)
        except ValueError:
            # Not one of Keras' own.
            part = registry.get(given)
    elif isinstance(given, str | dict):
        part = registry.get(given)
    if not isinstance(part, keras.optimizers.Optimizer):
        raise ValueError(
            f"{name} must be a Keras optimizer, its name or its config, received "
            f"{given!r} of type {type(given).__name__}."
        )
    if part.built:
        raise ValueError(
            f"{name} must be an optimizer that was not used yet, received {part.name!r}, which "
            "was built on a model's variables. Make a new one."
        )
    return part


def accumulated(optimizer: Any) -> int:
    """Minibatches to a real step of an optimizer or of one inside it; 0 is no accumulation.

    Raises:
        ValueError: Two inside it accumulate differently.
    """
    inside = [optimizer.gradient_accumulation_steps or 0]
    if not inside[0]:
        inside = [accumulated(part) for part in nested.inside(optimizer)] or inside
    if len(set(inside)) > 1:
        raise ValueError(
            f"The parts of {type(optimizer).__name__} accumulate gradients over {inside} "
            "minibatches, but what is around it must know when a real step is made. Give all parts "
            "the same gradient_accumulation_steps."
        )
    return inside[0]
