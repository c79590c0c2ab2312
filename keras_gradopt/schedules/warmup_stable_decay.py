"""WarmupStableDecay: rises, stays, and cools down late."""

from __future__ import annotations

from typing import Any, ClassVar

from keras import ops

from keras_gradopt.arguments import positive_int
from keras_gradopt.ranges import NON_NEGATIVE, Range
from keras_gradopt.schedules import Schedule

Tensor = Any


class WarmupStableDecay(Schedule):
    r"""A linear rise, a constant stretch, a linear cooldown.

    Use it first: until the cooldown it is the constant rate, the length may be changed in mid-run,
    and the cooldown gives what decaying gives. With peak $a$, $n_w$, $n_s$, $n_d$ steps of the
    three parts and final value $b$, at step $t$:

    $$a\, t / n_w, \qquad a, \qquad a + (b - a)\,(t - n_w - n_s) / n_d, \qquad \text{then } b$$

    Args:
        peak: Value $a$ of the constant stretch, at least 0.
        warmup_steps: Steps $n_w$ of the rise from 0, at least 0.
        stable_steps: Steps $n_s$ at the peak, at least 0.
        decay_steps: Steps $n_d$ of the cooldown, at least 1.
        final: Last value $b$, at least 0.

    Example:
        >>> [float(WarmupStableDecay(1.0, 2, 2, 4)(t)) for t in (0, 1, 2, 4, 6, 8, 9)]
        [0.0, 0.5, 1.0, 1.0, 0.5, 0.0, 0.0]

    References:
        Zhai, Kolesnikov, Houlsby, Beyer. Scaling Vision Transformers. CVPR 2022, section 3.5.
        Hu and others. MiniCPM. 2024, equation (1), with a linear cooldown as in
        Hagele and others. Scaling Laws and Compute-Optimal Training Beyond Fixed Training
        Durations. NeurIPS 2024, equation (1).
    """

    ranges: ClassVar[dict[str, Range]] = {
        "peak": NON_NEGATIVE.fixed(),
        "final": NON_NEGATIVE.fixed(),
    }

    def __init__(
        self,
        peak: float,
        warmup_steps: int,
        stable_steps: int,
        decay_steps: int,
        final: float = 0.0,
    ) -> None:
        self.declare(peak=peak, final=final)
        self.declare(
            warmup_steps=positive_int("warmup_steps", warmup_steps, least=0),
            stable_steps=positive_int("stable_steps", stable_steps, least=0),
            decay_steps=positive_int("decay_steps", decay_steps),
        )

    def at(self, step: Tensor) -> Tensor:
        """The value at a step."""
        rise = ops.clip(step / max(self.warmup_steps, 1), 0.0, 1.0) if self.warmup_steps else 1.0
        start = self.warmup_steps + self.stable_steps
        fall = ops.clip((step - start) / self.decay_steps, 0.0, 1.0)
        return self.peak * rise + (self.final - self.peak) * fall
