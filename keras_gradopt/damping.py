"""Damping: how much is added to a curvature, and how that follows what steps achieve."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import keras
from keras import ops

from keras_gradopt.arguments import Arguments, value_at
from keras_gradopt.ranges import POSITIVE, Range
from keras_gradopt.slot import Slot

Tensor = Any
NAME = "damping"


@keras.saving.register_keras_serializable(package="keras_gradopt")
class Damping(Arguments):
    r"""Levenberg-Marquardt damping $\lambda$, in units of the curvature.

    A quadratic model of the loss with curvature $B + \lambda I$ makes smaller steps the larger
    $\lambda$ is. After a step $p$ the reduction ratio tells how good the model was,

    $$\rho = \frac{f(w + p) - f(w)}{\langle g, p \rangle + \frac{1}{2} \langle p, Bp \rangle}$$

    and $\lambda$ shrinks by the factor where $\rho > 3/4$, and grows by it where $\rho < 1/4$.

    Args:
        initial: First value, above 0: a number, or a schedule if `adapts` is False.
        minimum: Smallest value, above 0.
        maximum: Largest value, above `minimum`.
        factor: Factor of one change, above 1.
        adapts: Whether it follows the reduction ratio.

    Raises:
        ValueError: A number lies outside its range, or a schedule is to adapt.

    Example:
        >>> show(Damping(1.0, factor=2.0).adapted(ops.ones(()), ops.zeros(())))
        2.0

    References:
        Martens. Deep learning via Hessian-free optimization. ICML 2010, section 4.1, where the
        factor is 3/2. Levenberg. A method for the solution of certain non-linear problems in least
        squares. 1944.
    """

    initial: Any
    minimum: float
    maximum: float
    factor: float
    adapts: bool

    ranges: ClassVar[dict[str, Range]] = {
        "initial": POSITIVE,
        "minimum": POSITIVE.fixed(),
        "maximum": POSITIVE.fixed(),
        "factor": Range(1.0, low_included=False, schedulable=False),
    }

    def __init__(
        self,
        initial: Any = 1.0,
        minimum: float = 1e-8,
        maximum: float = 1e8,
        factor: float = 1.5,
        adapts: bool = True,
    ) -> None:
        self.declare(
            initial=initial, minimum=minimum, maximum=maximum, factor=factor, adapts=adapts
        )
        if self.minimum >= self.maximum:
            raise ValueError(
                f"minimum must be below maximum, received {minimum!r} and {maximum!r}."
            )
        if adapts and callable(self.initial):
            raise ValueError(
                "A damping that adapts starts at a number, received a schedule. Pass adapts=False "
                "to follow the schedule."
            )

    @classmethod
    def of(cls, value: Any) -> Damping:
        """A damping from itself, or from a number where it begins.

        Raises:
            ValueError: It is neither.
        """
        if isinstance(value, Damping):
            return value
        return cls(value, adapts=not callable(value))

    def slots(self) -> Sequence[Slot]:
        """The value, if it changes by what steps achieve."""
        return (Slot(NAME, shape=(), initial=float(self.initial)),) if self.adapts else ()

    def value(self, shared: dict[str, Tensor], step: Any, dtype: Any) -> Tensor:
        r"""$\lambda$ at a step.

        Args:
            shared: The rule's shared slots.
            step: Number of the step, 1 for the first.
            dtype: Of the result.
        """
        value = shared[NAME] if self.adapts else value_at(self.initial, step - 1)
        return ops.cast(ops.convert_to_tensor(value), dtype)

    def adapted(self, value: Tensor, ratio: Tensor) -> Tensor:
        r"""$\lambda$ after a step of this reduction ratio; one that is no number grows it."""
        if not self.adapts:
            return value
        grown = ops.where(ratio >= 0.25, value, value * self.factor)
        new = ops.where(ratio > 0.75, value / self.factor, grown)
        return ops.clip(new, self.minimum, self.maximum)

    def kept(self, value: Tensor) -> dict[str, Tensor]:
        """The slot with its new value, by name."""
        return {NAME: value} if self.adapts else {}

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments, ready for JSON."""
        return self.arguments_config()

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Damping:
        """Makes the damping that `get_config` described."""
        return cls(**config)
