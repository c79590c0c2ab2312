"""ReduceOnPlateau: lowers a rate when the training loss stops falling."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from keras import ops

from keras_gradopt.arguments import positive_int
from keras_gradopt.ranges import NON_NEGATIVE, Range
from keras_gradopt.schedules import ObservesLoss, value_of
from keras_gradopt.slot import Slot

Tensor = Any


class ReduceOnPlateau(ObservesLoss):
    r"""Multiplies a rate, or any schedule, by a factor whenever the loss has stopped falling.

    Use it when the length of training is open and the loss tells when to go on more carefully. It
    acts inside the compiled step, on the loss of the minibatches. With the mean $\bar L_k$ of the
    losses of the $k$th $n$ steps, the best so far $L^*$ and the rate $\eta_t$ of the schedule:

    $$\text{better} \iff \bar L_k < (1 - r) L^* - a$$
    $$s \leftarrow \max(f s,\ s_{min}) \quad \text{after $p$ means that were not better}$$
    $$\text{rate at step } t = s\, \eta_t$$

    The model must be bound, which hands over the loss: `keras_gradopt.bind(model)`; a step uses the
    losses of the steps before it. In a training loop of your own call `optimizer.observe(loss)`
    before each `optimizer.apply`. Keras' own optimizers do not hand the loss on, and are refused.

    Args:
        schedule: What is reduced: a schedule or a number, at least 0.
        factor: $f$, in (0, 1).
        patience: Means $p$ in a row that are not better, at least 1.
        average_steps: Steps $n$ to a mean, at least 1: many, as single minibatches are noisy; an
            epoch's is usual.
        relative_delta: $r$ in [0, 1): how much of the best loss an improvement must take away.
        min_delta: $a$, at least 0, in units of the loss.
        cooldown: Means after a reduction that are not counted, at least 0.
        min_scale: $s_{min}$, in [0, 1].

    Example:
        >>> rate = ReduceOnPlateau(0.1, factor=0.5, patience=2, average_steps=1)
        >>> w = keras.Variable([1.0])
        >>> optimizer = SGD(rate)
        >>> for loss in (3.0, 2.0, 2.0, 2.0):
        ...     optimizer.observe(loss)
        ...     optimizer.apply([w.value * 0], [w])
        >>> float(optimizer.learning_rate)
        0.05

    References:
        The rule of torch.optim.lr_scheduler.ReduceLROnPlateau and Keras' callback; step for step
        that of optax.contrib.reduce_on_plateau, DeepMind, 2024.
    """

    ranges: ClassVar[dict[str, Range]] = {
        "schedule": NON_NEGATIVE,
        "factor": Range(0.0, 1.0, low_included=False, high_included=False).fixed(),
        "relative_delta": Range(0.0, 1.0, high_included=False).fixed(),
        "min_delta": NON_NEGATIVE.fixed(),
        "min_scale": Range(0.0, 1.0).fixed(),
    }

    def __init__(
        self,
        schedule: Any,
        factor: float = 0.1,
        patience: int = 10,
        average_steps: int = 100,
        relative_delta: float = 1e-4,
        min_delta: float = 0.0,
        cooldown: int = 0,
        min_scale: float = 0.0,
    ) -> None:
        super().__init__()
        self.declare(
            schedule=schedule,
            factor=factor,
            relative_delta=relative_delta,
            min_delta=min_delta,
            min_scale=min_scale,
        )
        self.declare(
            patience=positive_int("patience", patience),
            average_steps=positive_int("average_steps", average_steps),
            cooldown=positive_int("cooldown", cooldown, least=0),
        )

    def at(self, step: Tensor) -> Tensor:
        """The value at a step, with the reductions so far."""
        if self.state is None:
            raise RuntimeError(
                f"{type(self).__name__} follows the loss through an optimizer of keras_gradopt "
                "that was built, and was asked for a value outside of one. Give it to such an "
                "optimizer; Keras' own do not know how to hand the loss on."
            )
        return value_of(self.schedule, step) * ops.convert_to_tensor(self.state["scale"])

    def slots(self) -> Sequence[Slot]:
        """Scale, best mean, means not better, means to rest, and the mean in the making."""
        return (
            Slot("scale", (), 1.0),
            Slot("best", (), float("inf")),
            Slot("waited", (), 0.0),
            Slot("resting", (), 0.0),
            Slot("seen", (), 0.0),
            Slot("mean", (), 0.0),
        )

    def observed(self, loss: Tensor, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """The state after one more loss."""
        scale, best, resting = state["scale"], state["best"], state["resting"]
        seen = state["seen"] + 1.0
        mean = state["mean"] + (loss - state["mean"]) / seen
        full = seen >= self.average_steps

        better = mean < (1.0 - self.relative_delta) * best - self.min_delta
        rests = resting > 0
        waited = ops.where(better | rests, 0.0, state["waited"] + 1.0)
        reduce = waited >= self.patience
        new = {
            "scale": ops.where(reduce, ops.maximum(scale * self.factor, self.min_scale), scale),
            "best": ops.where(better, mean, best),
            "waited": ops.where(reduce, 0.0, waited),
            "resting": ops.where(
                rests, resting - 1.0, ops.where(reduce, float(self.cooldown), 0.0)
            ),
            "seen": ops.zeros_like(seen),
            "mean": ops.zeros_like(mean),
        }
        going_on = {**state, "seen": seen, "mean": mean}
        return {name: ops.where(full, new[name], going_on[name]) for name in new}
