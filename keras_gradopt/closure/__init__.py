"""Rules that evaluate this minibatch's loss again, at points of their own choice.

A rule here mixes in `EvaluatesLoss` and reads `self.objective`, an `Objective` that a bound model's
train step offers: see `keras_gradopt.bind`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from keras import ops

from keras_gradopt import backend, nested
from keras_gradopt import objective as objectives
from keras_gradopt.arguments import Hyperparameters, positive_int
from keras_gradopt.objective import Objective
from keras_gradopt.optimizer import Optimizer
from keras_gradopt.slot import Slot

Tensor = Any
Variable = Any


class EvaluatesLoss(Optimizer):
    """Mixed into optimizers that need the loss as a function of the weights.

    Attributes:
        objective: The loss of the minibatch of the step in progress, over its variables.
        evaluations: What all steps so far computed, in gradients of the loss: a Keras variable.
    """

    needs: str = "closure"
    # True for rules whose step torch.compile cannot follow: it differentiates twice, or loops
    # until a value says so.
    runs_eagerly: ClassVar[bool] = False
    # True for rules of which a part of the step is computed on the host: `tensors.on_host`.
    host_step: ClassVar[bool] = False
    objective: Objective

    def build(self, variables: Sequence[Variable]) -> None:
        """Creates the state; refuses what cannot go together.

        Raises:
            ValueError: Gradients are accumulated: the loss at hand is one minibatch's only.
        """
        for optimizer in nested.all_of(self):
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
            dataset = ", dataset=(x, y)" if self.needs == "dataset" else ""
            raise RuntimeError(
                f"{type(self).__name__} evaluates the loss again and needs a bound model. Call "
                f"keras_gradopt.bind(model{dataset}) before fit (again after load_model or "
                "clone_model). On JAX, Keras loses the values of a model whose first step fails: "
                "load it anew."
            )
        if self.host_step:
            backend.check_host_step(type(self).__name__, offered.model)
        # A local name would not do: rules reach the objective from `before` and `update`.
        object.__setattr__(self, "objective", offered.over(variables))
        step = super()._apply_dense
        try:
            (backend.eagerly(step) if self.runs_eagerly else step)(grads, variables)
            objective = self.objective
            self.evaluations.assign_add(objective.cost_of_step + objective.evaluations)
        finally:
            object.__setattr__(self, "objective", None)


class EstimatesGradient(EvaluatesLoss):
    """Base of rules that step along an estimate of the full gradient, kept from step to step.

    A rule writes `estimated`, and `update` for the step along the estimate, whose `g` it is.
    Gradient transforms act on the estimate that the step takes, not on the one that is kept; weight
    decay is decoupled and no part of it. Slots are `estimated`'s alone: `update` gets none.
    """

    gradient_evaluations_per_step = 2.0

    def estimated(
        self,
        ws: list[Tensor],
        gs: list[Tensor],
        slots: list[tuple[Tensor, ...]],
        shared: dict[str, Tensor],
        h: Hyperparameters,
    ) -> tuple[list[Tensor], list[tuple[Tensor, ...]], dict[str, Tensor]]:
        """The estimate from this minibatch's gradients, and new slots and shared slots.

        Args:
            ws: Weights, which the step may overwrite: a slot that keeps them takes a copy.
            gs: The minibatch's gradients there.
            slots: Per variable, its slots.
            shared: The shared slots.
            h: Hyper-parameters of this step.
        """
        raise NotImplementedError(f"{type(self).__name__} must define estimated.")

    def _stepped(
        self, state: dict[str, Any], gs: list[Tensor], variables: Sequence[Variable]
    ) -> dict[str, Any]:
        h = self.hyperparameters(self.iterations + 1, **self._clock_overrides())
        vs, slots, shared = self.estimated(state["ws"], gs, state["slots"], state["shared"], h)
        bare = {**state, "slots": [() for _ in slots], "shared": shared}
        return {**super()._stepped(bare, vs, variables), "slots": slots}

    def update(self, w: Tensor, g: Tensor, *slots: Tensor, h: Hyperparameters) -> tuple:
        """One step for one variable, along the estimate."""
        return (w - h.learning_rate * g, *slots)


class TakesFullGradient(EstimatesGradient):
    """Base of rules that start their estimate from the gradient over the whole dataset.

    A model bound with `keras_gradopt.bind(model, dataset=...)` computes it between steps, when
    `steps_to_pass` says that it is due, and hands it over by `take_full_gradient`. The two slots of
    a variable are then the weights at that moment, and the full gradient at them.

    Args:
        learning_rate: Step size, at least 0.
        snapshot_interval: Steps from one full pass to the next, at least 1; None is
            `passes_are_apart` times the dataset's minibatches.
        **kwargs: Common arguments, see `keras_gradopt.Optimizer`.
    """

    needs = "dataset"
    # Names of the two slots, and epochs between passes where no interval is given.
    kept: ClassVar[tuple[str, str]]
    passes_are_apart: ClassVar[int]

    def __init__(
        self, learning_rate: Any = 0.1, snapshot_interval: int | None = None, **kwargs: Any
    ) -> None:
        super().__init__(learning_rate=learning_rate, **kwargs)
        if snapshot_interval is not None:
            snapshot_interval = positive_int("snapshot_interval", snapshot_interval)
        self.declare(snapshot_interval=snapshot_interval)

    def slots(self, shape: tuple[int, ...]) -> Sequence[Slot]:
        """Weights of an earlier moment, and the gradient that is known of them."""
        weights, gradient = self.kept
        return (Slot(weights, initial=lambda w: w), Slot(gradient))

    def shared_slots(self) -> Sequence[Slot]:
        """Steps since the last full pass, its minibatches, and whether its gradient was finite."""
        names = ("steps_since_pass", "minibatches", "has_full_gradient")
        return [Slot(name, shape=()) for name in names]

    def steps_to_pass(self) -> int:
        """Steps until the next full pass; none or less where it is due. Not within a step."""
        since, minibatches = (
            int(ops.convert_to_numpy(self._shared[name].value))
            for name in ("steps_since_pass", "minibatches")
        )
        if not minibatches:
            return 0
        return (self.snapshot_interval or self.passes_are_apart * minibatches) - since

    def take_full_gradient(
        self, variables: Sequence[Variable], gs: list[Tensor], minibatches: int, is_finite: bool
    ) -> None:
        """Starts the estimate anew from the gradient over the dataset. Not within a step.

        Args:
            variables: The variables of `build`.
            gs: The full gradient at their present values.
            minibatches: Minibatches that it was computed in, which `evaluations` counts.
            is_finite: Whether it is finite; else steps take minibatches' gradients.
        """
        state = self._read(variables)
        if is_finite:
            state["slots"] = [(ops.copy(w), g) for w, g in zip(state["ws"], gs, strict=True)]
        numbers = {
            "steps_since_pass": 0.0,
            "minibatches": float(minibatches),
            "has_full_gradient": float(is_finite),
        }
        for name, number in numbers.items():
            state["shared"][name] = ops.convert_to_tensor(number, "float32")
        self._write(variables, state)
        self.evaluations.assign_add(float(minibatches))


def signs(ws: Sequence[Tensor], h: Hyperparameters, seed: int) -> list[Tensor]:
    """Random signs of the weights' shapes, others at each step."""
    draws = [h.normal(tuple(w.shape), seed, number) for number, w in enumerate(ws)]
    pairs = zip(draws, ws, strict=True)
    return [ops.cast(ops.where(d < 0, -1.0, 1.0), w.dtype) for d, w in pairs]


def sampled_diagonal(
    objective: Objective, ws: list[Tensor], h: Hyperparameters, seed: int
) -> list[Tensor]:
    """An unbiased estimate of the Fisher information's diagonal, by one draw of all targets."""
    gs = objective.sampled_gradient(ws, lambda shape, n: h.normal(shape, seed, n))
    return [g * g for g in gs]
