"""OneCycle: rises to a high peak and falls far below its start."""

from __future__ import annotations

import math
from typing import Any, ClassVar, Literal

from keras import ops

from keras_gradopt.arguments import positive_int
from keras_gradopt.ranges import DECAY_RATE, NON_NEGATIVE, POSITIVE, Range
from keras_gradopt.schedules import Schedule

Tensor = Any

_BETWEEN_0_AND_1 = Range(0.0, 1.0, low_included=False, high_included=False)


class OneCycle(Schedule):
    r"""One rise to a high peak, one long fall far below the start; momentum does the opposite.

    Use it to train in few epochs at the largest rate that works, with `momentum()` as the
    momentum (or `beta_1`) of the same optimizer. With peak $a$, start $a / d$, end $a / (d f)$ and
    $n$ steps, of which the part $p$ rises, the value goes from one to the next of

    $$t = 0,\ pn - 1,\ n - 1: \qquad a / d,\ a,\ a / (d f)$$

    and with `three_phase`, which falls as fast as it rose and then far below, of

    $$t = 0,\ pn - 1,\ 2pn - 2,\ n - 1: \qquad a / d,\ a,\ a / d,\ a / (d f)$$

    along half a cosine or a straight line; then it stays. torch's `OneCycleLR` is the same function
    (it raises beyond the end). optax' `cosine_onecycle_schedule` has its peak at
    $\lfloor pn \rfloor$ and its end at $n$.

    Args:
        peak: Highest value $a$, at least 0.
        total_steps: Steps $n$ of the whole cycle, above $1 / p$.
        pct_start: Part $p$ of the steps that rises, in (0, 1); at most 0.5 with `three_phase`.
        anneal_strategy: `"cos"` goes along half a cosine, `"linear"` along a straight line.
        div_factor: Peak over start $d$, above 0.
        final_div_factor: Start over end $f$, above 0.
        three_phase: Whether the fall back to the start and the fall below it are two phases, as in
            the paper.

    Example:
        >>> rate = OneCycle(1.0, 10, pct_start=0.5, anneal_strategy="linear", div_factor=5.0)
        >>> [round(float(rate(t)), 2) for t in (0, 2, 4, 9, 20)]
        [0.2, 0.6, 1.0, 0.0, 0.0]
        >>> momentum = rate.momentum()
        >>> [round(float(momentum(t)), 2) for t in (0, 2, 4, 9, 20)]
        [0.95, 0.9, 0.85, 0.95, 0.95]
        >>> optimizer = keras_gradopt.SGD(rate, momentum=momentum)

    References:
        Smith, Topin. Super-Convergence: Very Fast Training of Neural Networks Using Large Learning
        Rates. 2017.
        Smith. A disciplined approach to neural network hyper-parameters: Part 1. 2018 (momentum).
    """

    ranges: ClassVar[dict[str, Range]] = {
        "peak": NON_NEGATIVE.fixed(),
        "pct_start": _BETWEEN_0_AND_1.fixed(),
        "div_factor": POSITIVE.fixed(),
        "final_div_factor": POSITIVE.fixed(),
        # Arguments of `momentum`.
        "base_momentum": _BETWEEN_0_AND_1.fixed(),
        "max_momentum": DECAY_RATE.fixed(),
    }

    def __init__(
        self,
        peak: float,
        total_steps: int,
        pct_start: float = 0.3,
        anneal_strategy: Literal["cos", "linear"] = "cos",
        div_factor: float = 25.0,
        final_div_factor: float = 1e4,
        three_phase: bool = False,
    ) -> None:
        self.declare(
            peak=peak,
            pct_start=pct_start,
            div_factor=div_factor,
            final_div_factor=final_div_factor,
        )
        total_steps = positive_int("total_steps", total_steps)
        if self.pct_start * total_steps <= 1.0:
            raise ValueError(
                f"total_steps must be above 1 / pct_start = {1 / self.pct_start:g}, received "
                f"{total_steps}: the rise would be over before the second step."
            )
        if three_phase and self.pct_start > 0.5:
            raise ValueError(
                f"pct_start must be at most 0.5 with three_phase, received {pct_start!r}: the fall "
                "takes as long as the rise."
            )
        if anneal_strategy not in ("cos", "linear"):
            raise ValueError(
                f"anneal_strategy must be 'cos' or 'linear', received {anneal_strategy!r}."
            )
        self.declare(
            total_steps=total_steps, anneal_strategy=anneal_strategy, three_phase=three_phase
        )

    def momentum(self, base_momentum: float = 0.85, max_momentum: float = 0.95) -> OneCycle:
        """The momentum that goes with this rate: lowest where the rate is highest.

        Args:
            base_momentum: Momentum at the rate's peak, in (0, 1).
            max_momentum: Momentum at the start and at the end, in [0, 1).

        Returns:
            A cycle of the same steps from `max_momentum` to `base_momentum` and back.

        Raises:
            ValueError: An argument lies outside its range.
        """
        base = self._checked("base_momentum", base_momentum)
        highest = self._checked("max_momentum", max_momentum)
        if highest < base:
            raise ValueError(
                f"max_momentum must be at least base_momentum, received {highest} and {base}."
            )
        config = {**self.get_config(), "peak": base, "div_factor": base / highest}
        return OneCycle(**{**config, "final_div_factor": 1.0})

    def at(self, step: Tensor) -> Tensor:
        """The value at a step."""
        value = ops.zeros_like(step)
        for start, end, first, last in self._phases():
            done = ops.clip((step - start) / (end - start), 0.0, 1.0)
            left = 0.5 * (1.0 + ops.cos(math.pi * done)) if self._curved else 1.0 - done
            value = ops.where(step >= start, last + (first - last) * left, value)
        return value

    @property
    def _curved(self) -> bool:
        return bool(self.anneal_strategy == "cos")

    def _phases(self) -> list[tuple[float, float, float, float]]:
        """Of each phase its first and last step, and the values there."""
        top, end = self.pct_start * self.total_steps - 1, self.total_steps - 1
        start_value = self.peak / self.div_factor
        end_value = start_value / self.final_div_factor
        rise = (0.0, top, start_value, self.peak)
        if not self.three_phase:
            return [rise, (top, end, self.peak, end_value)]
        return [
            rise,
            (top, 2 * top, self.peak, start_value),
            (2 * top, end, start_value, end_value),
        ]
