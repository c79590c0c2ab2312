"""Rules that step all weights together, as one vector, by what the loss does."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, ClassVar

from keras import ops

from keras_gradopt.arguments import Hyperparameters
from keras_gradopt.closure import EvaluatesLoss
from keras_gradopt.groups import PLAIN, Group
from keras_gradopt.landscape import Landscape
from keras_gradopt.slot import Slot
from keras_gradopt.tensors import all_finite

Tensor = Any
Variable = Any

# What became of a step, in the shared slot `outcome`.
MOVED, CONVERGED, NO_STEP, NOT_FINITE = range(4)
REASONS = {
    CONVERGED: (
        "the gradient is as small as `tolerance` asks, or the loss changes by rounding only: "
        "training is done"
    ),
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
    reasons: ClassVar[dict[int, str]] = REASONS
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
        self.size = sum(math.prod(v.shape) for v in self.moving(variables))
        super()._create_state(variables)

    def moving(self, variables: Sequence[Variable]) -> list[Variable]:
        """Those of some variables that are not frozen."""
        return [v for v in variables if not self._group_of(v).frozen]

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
        h = h.cast(landscape.dtype)
        moved, found = self.settled(w, self.descend(landscape, w, g, shared, h), shared, h)
        found = {name: ops.cast(value, kinds[name]) for name, value in found.items()}
        return landscape.tensors(moved), slots, found

    def settled(
        self,
        w: Tensor,
        step: tuple[Tensor, dict[str, Tensor]],
        shared: dict[str, Tensor],
        h: Hyperparameters,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """A step, or none of it where it went wrong; with the count of idle ones.

        Args:
            w: The weights before.
            step: What `descend` returned.
            shared: The slots before.
            h: Hyper-parameters.
        """
        moved, found = step
        whole = all_finite([moved, *found.values()])
        lost = {**shared, OUTCOME: ops.full_like(shared[OUTCOME], float(NOT_FINITE))}
        found = {name: ops.where(whole, value, lost[name]) for name, value in found.items()}
        # At a rate of 0, as at the start of a warmup, nothing is meant to move.
        is_told_to = ops.convert_to_tensor(h.learning_rate) > 0
        is_idle = ops.not_equal(found[OUTCOME], MOVED) & is_told_to
        idle = ops.where(is_idle, shared[IDLE] + 1.0, 0.0)
        return ops.where(whole, moved, w), {**found, IDLE: ops.cast(idle, shared[IDLE].dtype)}

    def verdict(self, steps: int) -> tuple[str | None, bool]:
        """Why none of the last `steps` steps moved the weights, and whether that is a failure.

        Returns:
            The reason, None if one of them did, and False where the minimum is reached.
        """
        if not self.built or not steps or float(self._shared[IDLE]) < steps:
            return None, False
        outcome = int(self._shared[OUTCOME])
        return self.reasons[outcome], outcome != CONVERGED


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
