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

from keras_gradopt import backend, nested, registry
from keras_gradopt.arguments import Hyperparameters
from keras_gradopt.composite import Composite, accumulated
from keras_gradopt.optimizer import Optimizer, compute_dtype
from keras_gradopt.slot import Slot

Tensor = Any
Variable = Any


class Wrapper(Composite):
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

    # Copies the weights before the inner step, for rules whose `after` reads them.
    keeps_previous: ClassVar[bool] = False
    # Hands `after` the gradient of the inner optimizer's real step, for rules that read it.
    keeps_gradients: ClassVar[bool] = False
    # Sets the rate of each of the inner optimizer's steps, for rules that define `rate`.
    sets_rate: ClassVar[bool] = False

    @tracking.no_automatic_dependency_tracking
    def __init__(self, inner: Any, **kwargs: Any) -> None:
        super().__init__({"inner": inner}, **kwargs)
        if self.sets_rate and not isinstance(self.inner.learning_rate, keras.Variable):
            raise ValueError(
                f"{type(self).__name__} sets the learning rate itself, received an inner optimizer "
                f"({self.inner.name!r}) that follows a schedule. Give it a number to start from."
            )

    @classmethod
    def example(cls, **base_arguments: Any) -> Wrapper:
        """Around the gradient rule with the least state, which takes the common arguments."""
        own, inner = cls.split_arguments(base_arguments)
        rules = registry.members(f"{registry.PACKAGE}.gradient").values()
        plainest = min(rules, key=lambda rule: len(rule().slots((1,))))
        return cls(plainest(**inner), **own)

    @property
    def inner_optimizer(self) -> keras.optimizers.Optimizer:
        """The inner optimizer, under the name by which Keras' callbacks look for it."""
        return self.inner

    @property
    def asks_gradient(self) -> bool:
        """Whether the inner optimizer makes use of the gradient, or the wrapper itself."""
        reads = self.keeps_gradients or type(self).before is not Wrapper.before
        return reads or nested.asks_gradient(self.inner)

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

    def _create_state(self, variables: list[Variable]) -> None:
        super()._create_state(variables)
        self._gradient_sums = [
            self._state_beside(v, Slot("gradient_sum"))
            for v in variables
            if self.keeps_gradients and accumulated(self.inner)
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
        if former is not None and accumulated(self.inner):
            # Without a step there was no use for another rate.
            kept_rate = ops.where(stepped, h.learning_rate, former)
            backend.write(self, [self.learning_rate], [kept_rate])
        gs = self._of_real_step(gs, variables, stepped) if self.keeps_gradients else []
        state["ws"] = backend.read(variables, [compute_dtype(v) for v in variables])
        ws, slots, shared = self.after(old, state["ws"], gs, state["slots"], state["shared"], h)
        new = {"ws": ws, "slots": slots, "shared": shared}
        kept = {name: state[name] for name in new}
        if accumulated(self.inner):
            new = keras.tree.map_structure(lambda a, b: ops.where(stepped, a, b), new, kept)
        self._write(variables, new)

    def _of_real_step(
        self, gs: list[Tensor], variables: list[Variable], stepped: Tensor
    ) -> list[Tensor]:
        """`_mean_so_far`, after which the next real step begins anew."""
        parts = accumulated(self.inner)
        if not parts:
            return gs
        means = self._mean_so_far(gs, variables)
        sums = [self._gradient_sums[self._get_variable_index(v)] for v in variables]
        new = [ops.where(stepped, ops.zeros_like(g), g * parts) for g in means]
        backend.write(self, sums, new)
        return means

    def _mean_so_far(self, gs: list[Tensor], variables: list[Variable]) -> list[Tensor]:
        """The mean gradient of the minibatches since the last real step, this one included."""
        parts = accumulated(self.inner)
        if not parts:
            return gs
        sums = [self._gradient_sums[self._get_variable_index(v)] for v in variables]
        return [(s + g) / parts for s, g in zip(backend.read(sums), gs, strict=True)]

    # ------------------------------------------------------------------ Keras' own interface

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
