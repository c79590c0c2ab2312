"""Rules that evaluate this minibatch's loss again, at points of their own choice.

A rule here mixes in `EvaluatesLoss` and reads `self.objective`, an `Objective` that a bound model's
train step offers: see `keras_gradopt.bind`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from keras_gradopt import objective as objectives
from keras_gradopt.objective import Objective
from keras_gradopt.optimizer import Optimizer

Variable = Any


class EvaluatesLoss(Optimizer):
    """Mixed into optimizers that need the loss as a function of the weights.

    Attributes:
        objective: The loss of the minibatch of the step in progress, over its variables.
        evaluations: What all steps so far computed, in gradients of the loss: a Keras variable.
    """

    needs: ClassVar[str] = "closure"
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
        try:
            super()._apply_dense(grads, variables)
            # One is the gradient that Keras handed over.
            self.evaluations.assign_add(1.0 + self.objective.evaluations)
        finally:
            object.__setattr__(self, "objective", None)
