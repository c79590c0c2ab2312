"""Rules that evaluate this minibatch's loss again, at points of their own choice.

A rule here mixes in `EvaluatesLoss` and reads `self.objective`, an `Objective` that a bound model's
train step offers: see `keras_gradopt.bind`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, ClassVar

from keras import ops

from keras_gradopt import backend
from keras_gradopt import objective as objectives
from keras_gradopt.arguments import Hyperparameters
from keras_gradopt.groups import PLAIN, Group
from keras_gradopt.landscape import Landscape
from keras_gradopt.objective import Objective
from keras_gradopt.optimizer import Optimizer
from keras_gradopt.slot import Slot
from keras_gradopt.tensors import all_finite

Tensor = Any
Variable = Any


class EvaluatesLoss(Optimizer):
    """Mixed into optimizers that need the loss as a function of the weights.

    Attributes:
        objective: The loss of the minibatch of the step in progress, over its variables.
        evaluations: What all steps so far computed, in gradients of the loss: a Keras variable.
    """

    needs: ClassVar[str] = "closure"
    # True for rules whose step torch.compile cannot follow: it differentiates twice, or loops
    # until a value says so.
    runs_eagerly: ClassVar[bool] = False
    objective: Objective

    def build(self, variables: Sequence[Variable]) -> None:
        """Creates the state; refuses what cannot go together.

        Raises:
            ValueError: Gradients are accumulated: the loss at hand is one minibatch's only.
        """
        for optimizer in (self, getattr(self, "inner", None)):
            if getattr(optimizer, "gradient_accumulation_steps", None):
                raise ValueError(
                    f"{type(self).__name__} evaluates the loss of one minibatch and cannot "
                    "accumulate gradients over several. Use a larger batch_size, or an optimizer "
                    "that needs gradients only."
                )
        if not self.built:
            self.evaluations = self.add_variable((), dtype="float32", name="evaluations")
        super().build(variables)

    def look(
        self,
        ws: list[Tensor],
        gs: list[Tensor],
        slots: list[tuple[Tensor, ...]],
        shared: dict[str, Tensor],
        h: Hyperparameters,
    ) -> tuple[list[Tensor], list[tuple[Tensor, ...]], dict[str, Tensor]]:
        """What the rule finds out by evaluating the loss, before its step.

        Args:
            ws: Weights.
            gs: Gradients as Keras hands them over, unclipped.
            slots: Per variable, its slots.
            shared: The shared slots, by name.
            h: Hyper-parameters of this step.

        Returns:
            Gradients, slots and shared slots with which the step is made.
        """
        del ws, h
        return gs, slots, shared

    def _stepped(
        self, state: dict[str, Any], gs: list[Tensor], variables: Sequence[Variable]
    ) -> dict[str, Any]:
        h = self.hyperparameters(self.iterations + 1, **self._clock_overrides())
        gs, slots, shared = self.look(state["ws"], gs, state["slots"], state["shared"], h)
        return super()._stepped({**state, "slots": slots, "shared": shared}, gs, variables)

    def _apply_dense(self, grads: list[Any], variables: list[Variable]) -> None:
        offered = objectives.current()
        if offered is None:
            raise RuntimeError(
                f"{type(self).__name__} evaluates the loss again and needs a bound model. Call "
                "keras_gradopt.bind(model) before fit (again after load_model or clone_model). On "
                "JAX, Keras loses the values of a model whose first step fails: load it anew."
            )
        # A local name would not do: rules reach the objective from `before` and `update`.
        object.__setattr__(self, "objective", offered.over(variables))
        step = super()._apply_dense
        try:
            (backend.eagerly(step) if self.runs_eagerly else step)(grads, variables)
            # One is the gradient that Keras handed over.
            self.evaluations.assign_add(1.0 + self.objective.evaluations)
        finally:
            object.__setattr__(self, "objective", None)


def signs(ws: Sequence[Tensor], h: Hyperparameters, seed: int) -> list[Tensor]:
    """Random signs of the weights' shapes, others at each step."""
    draws = [h.normal(tuple(w.shape), seed, number) for number, w in enumerate(ws)]
    pairs = zip(draws, ws, strict=True)
    return [ops.cast(ops.where(d < 0, -1.0, 1.0), w.dtype) for d, w in pairs]


def sampled_diagonal(
    objective: Objective, ws: list[Tensor], h: Hyperparameters, seed: int
) -> list[Tensor]:
    """An unbiased estimate of the Fisher information's diagonal, by one draw of all targets."""
    gs, drawn = objective.sampled_gradient(ws, lambda shape, n: h.normal(shape, seed, n))
    return [ops.cast(drawn, g.dtype) * g * g for g in gs]


# What became of a step, in the shared slot `outcome`.
MOVED, CONVERGED, NO_STEP, NOT_FINITE = range(4)
REASONS = {
    CONVERGED: "the gradient is as small as `tolerance` asks: training is done",
    NO_STEP: (
        "no step along the search direction lowers the loss: the minimum is reached as far as "
        "this precision goes, or loss and gradient do not belong together"
    ),
    NOT_FINITE: "the loss or its gradient is not finite at the weights",
}
OUTCOME = "outcome"
IDLE = "idle"


class StepsAsVector(EvaluatesLoss):
    """Mixed into rules that step all weights together, as one vector, by what the loss does.

    Such a rule defines `vector_slots` and `descend`. Frozen groups stay out of the vector; factors
    of rates, clipping and decoupled weight decay are refused: the loss decides.

    Raises:
        ValueError: An argument is given that changes gradients or weights behind the loss' back.
    """

    runs_eagerly = True
    wants_whole_data = True
    refused: ClassVar[dict[str, str]] = {
        "weight_decay": "Add a kernel_regularizer to the layers, so that the loss holds it.",
        "clipnorm": "Its step is limited by the loss itself.",
        "clipvalue": "Its step is limited by the loss itself.",
        "global_clipnorm": "Its step is limited by the loss itself.",
        "gradient_transforms": "It reads how the loss changes along the gradient as it is.",
    }
    # Entries of the vector, known when the state is built.
    size: int = 1

    def __init__(self, **kwargs: Any) -> None:
        for name, advice in self.refused.items():
            if kwargs.get(name):
                raise ValueError(
                    f"{type(self).__name__} searches by the loss and takes no {name}, received "
                    f"{kwargs[name]!r}. {advice}"
                )
        super().__init__(**kwargs)
        for pattern, group in self.groups.items():
            if not group.frozen and group != PLAIN:
                raise ValueError(
                    f"{type(self).__name__} steps all weights as one vector: the group {pattern!r} "
                    "may be frozen, but not have a rate or a weight decay of its own."
                )

    def vector_slots(self, size: int) -> Sequence[Slot]:
        """State beside a vector of `size` entries, each slot with its whole shape."""
        del size
        return ()

    def descend(
        self,
        landscape: Landscape,
        w: Tensor,
        g: Tensor,
        shared: dict[str, Tensor],
        h: Hyperparameters,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """One step.

        Args:
            landscape: The minibatch's loss over the vector.
            w: The weights, shape (size,).
            g: The gradient there.
            shared: The slots, by name.
            h: Hyper-parameters.

        Returns:
            The new weights, and the new slots.
        """
        raise NotImplementedError(f"{type(self).__name__} must define descend.")

    def shared_slots(self) -> Sequence[Slot]:
        """What became of the last step, how many did not move, and the rule's own state."""
        return (Slot(OUTCOME, shape=()), Slot(IDLE, shape=()), *self.vector_slots(self.size))

    def _create_state(self, variables: list[Variable]) -> None:
        moving = [v for v in variables if not self._group_of(v).frozen]
        self.size = sum(math.prod(v.shape) for v in moving)
        super()._create_state(variables)

    def transition(
        self,
        ws: list[Tensor],
        gs: list[Tensor],
        slots: list[tuple[Tensor, ...]],
        shared: dict[str, Tensor],
        h: Hyperparameters,
        members: Sequence[Group] | None = None,
        *,
        donate: bool = False,
    ) -> tuple[list[Tensor], list[tuple[Tensor, ...]], dict[str, Tensor]]:
        """One step of all weights that move, as one vector."""
        del donate
        moving = [i for i in range(len(ws)) if members is None or not members[i].frozen]
        if not moving:
            return ws, slots, shared
        landscape = Landscape(self.objective, ws, moving)
        w, g = landscape.vector(ws), landscape.vector(gs)
        kinds = {name: value.dtype for name, value in shared.items()}
        shared = {name: ops.cast(value, landscape.dtype) for name, value in shared.items()}
        moved, found = self.descend(landscape, w, g, shared, h.cast(landscape.dtype))
        # Nothing of a step that went wrong is kept.
        whole = all_finite([moved, *found.values()])
        moved = ops.where(whole, moved, w)
        lost = {**shared, OUTCOME: ops.full_like(shared[OUTCOME], float(NOT_FINITE))}
        shared = {
            name: ops.cast(ops.where(whole, value, lost[name]), kinds[name])
            for name, value in found.items()
        }
        idle = ops.where(ops.equal(shared[OUTCOME], MOVED), 0.0, shared[IDLE] + 1.0)
        return landscape.tensors(moved), slots, {**shared, IDLE: ops.cast(idle, kinds[IDLE])}

    def verdict(self, steps: int) -> tuple[str | None, bool]:
        """Why none of the last `steps` steps moved the weights, and whether that is a failure.

        Returns:
            The reason, None if one of them did, and False where the minimum is reached.
        """
        if not self.built or not steps or float(self._shared[IDLE]) < steps:
            return None, False
        outcome = int(self._shared[OUTCOME])
        return REASONS[outcome], outcome != CONVERGED


def outcome_of(still: Tensor, success: Tensor, finite: Tensor, dtype: Any) -> dict[str, Tensor]:
    """The slot `outcome` of a step.

    Args:
        still: Whether there was nothing to do.
        success: Whether a step was found.
        finite: Whether the loss is a number.
        dtype: Of the slot.
    """
    outcome = ops.where(still, CONVERGED, ops.where(success, MOVED, NO_STEP))
    return {OUTCOME: ops.cast(ops.where(finite, outcome, NOT_FINITE), dtype)}
