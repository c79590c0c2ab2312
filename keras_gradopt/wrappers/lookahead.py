"""Lookahead: slow weights that follow fast ones."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from keras import ops

from keras_gradopt.arguments import Hyperparameters, positive_int
from keras_gradopt.ranges import Range
from keras_gradopt.slot import Slot
from keras_gradopt.wrappers import Wrapper

Tensor = Any


class Lookahead(Wrapper):
    r"""Lets any optimizer run ahead, and goes part of the way after it.

    Use it to calm an optimizer that oscillates, at the price of one copy of the weights. The inner
    optimizer moves the weights $w$; every $k$ steps the slow weights $\phi$ follow, and the inner
    optimizer goes on from them:

    $$\phi \leftarrow \phi + \alpha (w - \phi), \quad w \leftarrow \phi$$

    Args:
        inner: The optimizer that runs ahead: an optimizer not used before, a name, or a config.
        sync_period: Steps $k$ between two synchronisations, at least 1.
        slow_step_size: $\alpha$, in (0, 1]: a number or a schedule.
        **kwargs: `name` and `loss_scale_factor`; everything else goes to the inner optimizer.

    Example:
        >>> w = keras.Variable([1.0, -2.0])
        >>> optimizer = Lookahead(SGD(0.25), sync_period=2, slow_step_size=0.5)
        >>> for _ in range(2):
        ...     optimizer.apply([2 * w], [w])      # fast: 1, 0.5, 0.25; slow: half-way to it
        >>> show(w)
        [0.625, -1.25]

    References:
        Zhang, Lucas, Hinton, Ba. Lookahead Optimizer: k steps forward, 1 step back. NeurIPS 2019,
        Algorithm 1, the inner optimizer's state kept at synchronisation (the paper's default).
    """

    ranges: ClassVar[dict[str, Range]] = {"slow_step_size": Range(0.0, 1.0, low_included=False)}

    def __init__(
        self, inner: Any, sync_period: int = 6, slow_step_size: Any = 0.5, **kwargs: Any
    ) -> None:
        super().__init__(inner, **kwargs)
        self.declare(
            sync_period=positive_int("sync_period", sync_period), slow_step_size=slow_step_size
        )

    def slots(self, shape: tuple[int, ...]) -> Sequence[Slot]:
        """The slow weights, which start where the weights do."""
        return (Slot("slow", initial=lambda w: w),)

    def after(
        self,
        old: list[Tensor],
        ws: list[Tensor],
        gs: list[Tensor],
        slots: list[tuple[Tensor, ...]],
        shared: dict[str, Tensor],
        h: Hyperparameters,
    ) -> tuple[list[Tensor], list[tuple[Tensor, ...]], dict[str, Tensor]]:
        """Moves the slow weights every `sync_period` steps, and goes on from them."""
        due = ops.equal(ops.mod(h.step, float(self.sync_period)), 0.0)
        slow = [
            ops.where(due, phi + h.slow_step_size * (w - phi), phi)
            for w, (phi,) in zip(ws, slots, strict=True)
        ]
        ws = [ops.where(due, phi, w) for w, phi in zip(ws, slow, strict=True)]
        return ws, [(phi,) for phi in slow], shared
