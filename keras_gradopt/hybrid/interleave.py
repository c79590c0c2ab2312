"""Interleave: two optimizers by turns."""

from __future__ import annotations

from typing import Any, ClassVar

from keras import ops

from keras_gradopt import nested
from keras_gradopt.arguments import positive_int
from keras_gradopt.hybrid import Combination, averages, verdict_of

Tensor = Any


class Interleave(Combination):
    r"""Some steps of one optimizer, some of another, and so on.

    Use it to mix what one method cannot: a search by losses that leaves the valley between steps of
    a gradient method, or a dear second-order step now and then among cheap ones. With the weights
    $w_t$, the parts' steps $A$ and $B$, and $a$ and $b$ steps of each by turns,

    $$w_{t+1} = \begin{cases} A(w_t) & t \bmod (a + b) < a \\ B(w_t) & \text{else} \end{cases}$$

    Each part keeps its state while the other steps, so its memory is of weights that have been
    moved since. Where a part accumulates gradients its steps are whole ones. Parts that average
    weights are refused: put `WeightAveraging` around. A bound model ends a training early only when
    no part finds a step any more.

    Args:
        first: $A$: an optimizer not used before, a name, or a config.
        then: $B$, likewise.
        first_steps: $a$, at least 1.
        then_steps: $b$, at least 1.
        **kwargs: `name` and `loss_scale_factor`; everything else goes to the parts.

    Example:
        >>> w = keras.Variable([1.0])
        >>> optimizer = Interleave(SGD(0.1), SGD(0.01), first_steps=2)
        >>> for _ in range(4):
        ...     optimizer.apply([ops.ones((1,))], [w])     # 0.9, 0.8, 0.79, 0.69
        >>> show(w)
        [0.69]

    References:
        Cui, Zhang, Tüske, Picheny. Evolutionary Stochastic Gradient Descent for Optimization of
        Deep Neural Networks. NeurIPS 2018, Algorithm 1: stochastic gradient steps and generations
        of an evolution strategy by turns; there each member of a population is trained.
    """

    refused: ClassVar[dict[str, str]] = {"use_ema": "Put an average around both parts."}
    first_steps: int
    then_steps: int

    def __init__(
        self, first: Any, then: Any, first_steps: int = 1, then_steps: int = 1, **kwargs: Any
    ) -> None:
        super().__init__(first, then, **kwargs)
        self.declare(
            first_steps=positive_int("first_steps", first_steps),
            then_steps=positive_int("then_steps", then_steps),
        )
        for part in self.parts:
            if averages(part) or any(one.use_ema for one in nested.all_of(part)):
                raise ValueError(
                    f"{type(part).__name__} averages weights that the other part of "
                    f"{type(self).__name__} moves behind its back. Take parts that do not average, "
                    "and put an average around both: WeightAveraging(Interleave(...))."
                )

    def turn(self) -> Tensor:
        """By the steps of both parts so far."""
        position = ops.mod(self.iterations, self.first_steps + self.then_steps)
        return ops.cast(position >= self.first_steps, "int32")

    def verdict(self, steps: int) -> tuple[str | None, bool]:
        """Why none of the last `steps` steps moved the weights, where no part finds one."""
        rounds = steps // (self.first_steps + self.then_steps)
        counts = (rounds * self.first_steps, rounds * self.then_steps)
        found = [verdict_of(p, n) for p, n in zip(self.parts, counts, strict=True)]
        if any(reason is None for reason, _ in found):
            return None, False
        return found[0][0], any(is_failure for _, is_failure in found)
