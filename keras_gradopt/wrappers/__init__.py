"""Rules around another optimizer: what it gets to see before its step, what becomes of it after.

A wrapper subclasses `Wrapper` and defines `before`, `after`, or both. The inner optimizer is any
Keras optimizer, ours or Keras' own.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import keras
from keras import ops
from keras.src.utils import tracking

from keras_gradopt import backend, registry
from keras_gradopt.arguments import Hyperparameters, serialize
from keras_gradopt.optimizer import Optimizer, compute_dtype
from keras_gradopt.slot import Slot

Tensor = Any
Variable = Any
# Of the common arguments these are the wrapper's; the others act where the gradient is used.
_OWN_BASE_ARGUMENTS = ("name", "loss_scale_factor")


class Wrapper(Optimizer):
    """Base of optimizers that change another optimizer's step.

    One step calls `before` on the gradients, then the inner optimizer's own `apply`, then `after`
    on the new weights. Rate, clipping, weight decay, accumulation, averaging and schedules are the
    inner optimizer's: give them there. Under accumulation a step is one of the inner optimizer's
    real steps.

    Args:
        inner: The optimizer inside: an optimizer not used before, a name, or a config.
        name: Name of the optimizer.
        loss_scale_factor: As in `keras_gradopt.Optimizer`; taken over from the inner one.

    Raises:
        ValueError: `inner` was built before, or a common argument belongs to it.
    """

    # The inner optimizer keeps them.
    keeps_lost_digits = False
    # Copies the weights before the inner step, for rules whose `after` reads them.
    keeps_previous: ClassVar[bool] = False
    # Hands `after` the gradient of the inner optimizer's real step, for rules that read it.
    keeps_gradients: ClassVar[bool] = False
    # Sets the rate of each of the inner optimizer's steps, for rules that define `rate`.
    sets_rate: ClassVar[bool] = False

    @tracking.no_automatic_dependency_tracking
    def __init__(self, inner: Any, **kwargs: Any) -> None:
        misplaced = sorted(
            set(kwargs) & set(Optimizer.argument_defaults()) - set(_OWN_BASE_ARGUMENTS)
        )
        if misplaced:
            raise ValueError(
                f"{type(self).__name__} takes {', '.join(misplaced)} through its inner optimizer: "
                f"give it to `inner` instead."
            )
        inner = _made(inner)
        if self.sets_rate and not isinstance(inner.learning_rate, keras.Variable):
            raise ValueError(
                f"{type(self).__name__} sets the learning rate itself, received an inner optimizer "
                f"({inner.name!r}) that follows a schedule. Give it a number to start from."
            )
        if inner.built:
            raise ValueError(
                f"inner must be an optimizer that was not used yet, received {inner.name!r}, which "
                "was built on a model's variables. Make a new one."
            )
        super().__init__(learning_rate=0.0, **kwargs)
        self.inner = inner
        if inner.loss_scale_factor is not None:
            # Gradients are unscaled once, before `before` sees them.
            self.loss_scale_factor = inner.loss_scale_factor
            inner.loss_scale_factor = None

    @classmethod
    def example(cls, **base_arguments: Any) -> Wrapper:
        """Around the gradient rule with the least state, which takes the common arguments."""
        own = {k: base_arguments.pop(k) for k in _OWN_BASE_ARGUMENTS if k in base_arguments}
        rules = registry.members(f"{registry.PACKAGE}.gradient").values()
        plainest = min(rules, key=lambda rule: len(rule().slots((1,))))
        return cls(plainest(**base_arguments), **own)

    @property
    def inner_optimizer(self) -> keras.optimizers.Optimizer:
        """The inner optimizer, under the name by which Keras' callbacks look for it."""
        return self.inner

    # ------------------------------------------------------------------ what a wrapper declares

    def before(
        self,
        ws: list[Tensor],
        gs: list[Tensor],
        slots: list[tuple[Tensor, ...]],
        shared: dict[str, Tensor],
        h: Hyperparameters,
    ) -> list[Tensor]:
        """The gradients that the inner optimizer gets.

        Args:
            ws: Weights, float32.
            gs: Gradients.
            slots: Per variable, the wrapper's slots.
            shared: The wrapper's shared slots.
            h: Hyper-parameters; `h.step` counts the inner optimizer's real steps.
        """
        del ws, slots, shared, h
        return gs

    def rate(self, gs: list[Tensor], slots: list[tuple[Tensor, ...]], h: Hyperparameters) -> Tensor:
        """The rate of the inner optimizer's step, where `sets_rate`.

        Args:
            gs: The gradients of the step (under accumulation the mean of its minibatches').
            slots: Per variable, the wrapper's slots.
            h: Hyper-parameters; `h.learning_rate` is the rate so far.
        """
        del gs, slots
        return h.learning_rate

    def after(
        self,
        old: list[Tensor],
        ws: list[Tensor],
        gs: list[Tensor],
        slots: list[tuple[Tensor, ...]],
        shared: dict[str, Tensor],
        h: Hyperparameters,
    ) -> tuple[list[Tensor], list[tuple[Tensor, ...]], dict[str, Tensor]]:
        """Weights, slots and shared slots after the inner optimizer's step.

        Args:
            old: Weights before the step where `keeps_previous`, else an empty list.
            ws: Weights after it.
            gs: The gradients of the step where `keeps_gradients` (under accumulation the mean of
                its minibatches'), else an empty list.
            slots: Per variable, the wrapper's slots.
            shared: The wrapper's shared slots.
            h: Hyper-parameters of the step just made.
        """
        del old, gs, h
        return ws, slots, shared

    # ------------------------------------------------------------------ the step

    @tracking.no_automatic_dependency_tracking
    def build(self, variables: Sequence[Variable]) -> None:
        """Creates the inner optimizer's state and the wrapper's own."""
        if self.built:
            return
        self.inner.build(list(variables))
        super().build(variables)

    def _create_state(self, variables: list[Variable]) -> None:
        super()._create_state(variables)
        self._gradient_sums = [
            self._state_beside(v, Slot("gradient_sum"))
            for v in variables
            if self.keeps_gradients and _accumulated(self.inner)
        ]

    def _apply_dense(self, grads: list[Tensor], variables: list[Variable]) -> None:
        with backend.without_waiting():
            self._step_around(grads, variables)

    def _step_around(self, grads: list[Tensor], variables: list[Variable]) -> None:
        state = self._read(variables)
        if self.averages_weights:
            state = self._exchanged(state, evaluating=False)
            self._write(variables, state)
        before = ops.cast(self.inner.iterations, "int32")
        h = self.hyperparameters(before + 1)
        gs = [ops.cast(g, w.dtype) for g, w in zip(grads, state["ws"], strict=True)]
        gs = self.before(state["ws"], gs, state["slots"], state["shared"], h)
        old = backend.frozen(variables) if self.keeps_previous else []
        old = [ops.cast(w, compute_dtype(v)) for w, v in zip(old, variables, strict=False)]
        handed_on = [ops.cast(g, v.dtype) for g, v in zip(gs, variables, strict=True)]
        # A copy: torch writes into the variable's own tensor.
        former = ops.copy(h.learning_rate) if self.sets_rate else None
        if self.sets_rate:
            means = self._mean_so_far(gs, variables)
            h = h.replace(learning_rate=self.rate(means, state["slots"], h))
            backend.write(self, [self.learning_rate], [h.learning_rate])
        with backend.stepping_inner(self.inner):
            self.inner.apply(handed_on, variables)
        if type(self).after is Wrapper.after:
            return
        stepped = ops.not_equal(ops.cast(self.inner.iterations, "int32"), before)
        if former is not None and _accumulated(self.inner):
            # Without a step there was no use for another rate.
            kept_rate = ops.where(stepped, h.learning_rate, former)
            backend.write(self, [self.learning_rate], [kept_rate])
        gs = self._of_real_step(gs, variables, stepped) if self.keeps_gradients else []
        state["ws"] = backend.read(variables, [compute_dtype(v) for v in variables])
        ws, slots, shared = self.after(old, state["ws"], gs, state["slots"], state["shared"], h)
        new = {"ws": ws, "slots": slots, "shared": shared}
        kept = {name: state[name] for name in new}
        if _accumulated(self.inner):
            new = keras.tree.map_structure(lambda a, b: ops.where(stepped, a, b), new, kept)
        self._write(variables, new)

    def _of_real_step(
        self, gs: list[Tensor], variables: list[Variable], stepped: Tensor
    ) -> list[Tensor]:
        """`_mean_so_far`, after which the next real step begins anew."""
        parts = _accumulated(self.inner)
        if not parts:
            return gs
        means = self._mean_so_far(gs, variables)
        sums = [self._gradient_sums[self._get_variable_index(v)] for v in variables]
        new = [ops.where(stepped, ops.zeros_like(g), g * parts) for g in means]
        backend.write(self, sums, new)
        return means

    def _mean_so_far(self, gs: list[Tensor], variables: list[Variable]) -> list[Tensor]:
        """The mean gradient of the minibatches since the last real step, this one included."""
        parts = _accumulated(self.inner)
        if not parts:
            return gs
        sums = [self._gradient_sums[self._get_variable_index(v)] for v in variables]
        return [(s + g) / parts for s, g in zip(backend.read(sums), gs, strict=True)]

    def update_step(self, gradient: Tensor, variable: Variable, learning_rate: Any) -> None:
        """Not defined for one variable alone: the inner optimizer steps all of them."""
        raise NotImplementedError(
            f"{type(self).__name__} steps all variables together: call apply(grads, variables)."
        )

    def transition(self, *args: Any, **kwargs: Any) -> Any:
        """Not defined: the inner optimizer may be one of Keras' own, which is no pure function."""
        raise NotImplementedError(
            f"{type(self).__name__} has no pure step: call apply or stateless_apply."
        )

    # ------------------------------------------------------------------ Keras' own interface

    @property
    def variables(self) -> list[Variable]:
        """The wrapper's variables, then the inner optimizer's."""
        return self._variables[:] + self.inner.variables

    @property
    def iterations(self) -> Any:
        """Real steps of the inner optimizer."""
        return self.inner.iterations

    @property
    def learning_rate(self) -> Any:
        """The inner optimizer's learning rate."""
        return self.inner.learning_rate

    @learning_rate.setter
    def learning_rate(self, value: Any) -> None:
        self.inner.learning_rate = value

    def _learning_rate_at(self, count: Any) -> dict[str, Any]:
        del count
        return {"learning_rate": ops.cast(self.inner.learning_rate, "float32")}

    def observe(self, loss: Tensor) -> None:
        """Hands a loss to the schedules that follow it, the inner optimizer's too."""
        super().observe(loss)
        if isinstance(self.inner, Optimizer):
            self.inner.observe(loss)

    def _exchange(self, variables: Sequence[Variable] | None, *, evaluating: bool) -> None:
        if self.averages_weights:
            super()._exchange(variables, evaluating=evaluating)
        elif isinstance(self.inner, Optimizer):
            self.inner._exchange(variables, evaluating=evaluating)

    def finalize_variable_values(self, var_list: Sequence[Variable]) -> None:
        """Puts the wrapper's average into the weights, or the inner optimizer's final values."""
        if self.averages_weights:
            self.put_evaluation_weights(var_list)
        else:
            self.inner.finalize_variable_values(var_list)

    def exclude_from_weight_decay(
        self, var_list: Sequence[Variable] | None = None, var_names: Sequence[str] | None = None
    ) -> None:
        """Excludes variables from the inner optimizer's weight decay."""
        self.inner.exclude_from_weight_decay(var_list, var_names)

    def set_weights(self, weights: Sequence[Any]) -> None:
        """Sets the wrapper's and the inner optimizer's state, in the order of `variables`."""
        own = len(self._variables)
        super().set_weights(weights[:own])
        self.inner.set_weights(weights[own:])

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments, ready for JSON; `from_config` takes them back."""
        config = {"name": self.name, "loss_scale_factor": self.loss_scale_factor}
        return {**config, **self.arguments_config(), "inner": serialize(self.inner)}


def _made(inner: Any) -> keras.optimizers.Optimizer:
    if isinstance(inner, str) and ">" not in inner:
        inner = keras.optimizers.get(inner)
    elif isinstance(inner, str | dict):
        inner = registry.get(inner)
    if not isinstance(inner, keras.optimizers.Optimizer):
        raise ValueError(
            "inner must be a Keras optimizer, its name or its config, received "
            f"{inner!r} of type {type(inner).__name__}."
        )
    return inner


def _accumulated(optimizer: Any) -> int:
    """Minibatches to a real step of an optimizer or of one inside it; 0 is no accumulation."""
    inner = getattr(optimizer, "inner_optimizer", None)
    return optimizer.gradient_accumulation_steps or (0 if inner is None else _accumulated(inner))
