"""Cyclic: rises and falls in straight lines, over and over."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from keras import ops

from keras_gradopt.arguments import positive_int
from keras_gradopt.ranges import NON_NEGATIVE, Range
from keras_gradopt.schedules import Schedule, power

Tensor = Any

_MODES = ("triangular", "triangular2", "exp_range")


class Cyclic(Schedule):
    r"""Straight up and straight down between two values, over and over.

    Use it when no single rate is known but a range test gave two between which training works, or
    for a run of unknown length; with one known budget a single cycle (`OneCycle`) does better. With
    base $b$, peak $a$ and half a cycle of $s$ steps, at step $t$:

    $$b + (a - b)\,\left(1 - \left|(t \bmod 2s) / s - 1\right|\right)\, h_t$$

    with height $h_t = 1$ (triangular), $2^{-\lfloor t / 2s \rfloor}$ (triangular2) or $\gamma^t$
    (exp_range). torch's `CyclicLR` is the same function (with the cycle of momentum beside it).

    Args:
        base: Value $b$ where a cycle begins, at least 0.
        peak: Value $a$ in the middle of the first cycle, at least 0; below `base` the cycle goes
            down first, as a momentum beside a cyclic rate does.
        step_size: Steps $s$ of half a cycle, at least 1; 2 to 10 epochs are usual.
        mode: `"triangular"` keeps the height, `"triangular2"` halves it after each cycle,
            `"exp_range"` lowers it at every step.
        gamma: Factor $\gamma$ of the height per step for `exp_range`, in (0, 1].

    Example:
        >>> [float(Cyclic(0.0, 1.0, 2)(t)) for t in range(6)]
        [0.0, 0.5, 1.0, 0.5, 0.0, 0.5]
        >>> [float(Cyclic(0.0, 1.0, 1, mode="triangular2")(t)) for t in (1, 3, 5)]
        [1.0, 0.5, 0.25]

    References:
        Smith. Cyclical Learning Rates for Training Neural Networks. WACV 2017, section 3.1.
    """

    ranges: ClassVar[dict[str, Range]] = {
        "base": NON_NEGATIVE.fixed(),
        "peak": NON_NEGATIVE.fixed(),
        "gamma": Range(0.0, 1.0, low_included=False).fixed(),
    }

    def __init__(
        self,
        base: float,
        peak: float,
        step_size: int = 2000,
        mode: Literal["triangular", "triangular2", "exp_range"] = "triangular",
        gamma: float = 1.0,
    ) -> None:
        if mode not in _MODES:
            raise ValueError(f"mode must be one of {', '.join(_MODES)}, received {mode!r}.")
        self.declare(base=base, peak=peak, gamma=gamma, mode=mode)
        self.declare(step_size=positive_int("step_size", step_size))

    def at(self, step: Tensor) -> Tensor:
        """The value at a step."""
        place = ops.mod(step, 2.0 * self.step_size) / self.step_size
        triangle = 1.0 - ops.abs(place - 1.0)
        return self.base + (self.peak - self.base) * triangle * self._height(step)

    def _height(self, step: Tensor) -> Any:
        if self.mode == "triangular2":
            return power(0.5, ops.floor(step / (2.0 * self.step_size)))
        return power(self.gamma, step) if self.mode == "exp_range" else 1.0
