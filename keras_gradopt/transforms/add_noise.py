"""AddNoise: normal noise on the gradients that dies away."""

from __future__ import annotations

from typing import Any, ClassVar

from keras import ops

from keras_gradopt.arguments import Hyperparameters, positive_int
from keras_gradopt.ranges import NON_NEGATIVE, Range
from keras_gradopt.transforms import Transform

Tensor = Any


class AddNoise(Transform):
    r"""Adds normal noise to every gradient, less and less of it.

    Use it where very deep or poorly initialised nets do not start to learn, or to leave shallow
    minima and saddles early on. At step $t = 1, 2, \dots$:

    $$g_t \leftarrow g_t + \mathcal{N}(0, \eta / t^{\gamma})$$

    Args:
        eta: Variance $\eta$ at the first step, at least 0; the paper takes 0.01, 0.3 or 1. A number
            or a schedule.
        gamma: How fast it falls, $\gamma$ at least 0; 0.55 in the paper.
        seed: Of all noise of a training, at least 0; two such transforms need two seeds.

    Example:
        >>> noise = AddNoise(eta=0.01)
        >>> gs, _ = noise.apply([ops.zeros((10000,))], [], {}, h(eta=0.01, gamma=0.55))
        >>> round(float(ops.std(gs[0])), 2)
        0.1

    References:
        Neelakantan, Vilnis, Le, Sutskever, Kaiser, Kurach, Martens. Adding Gradient Noise Improves
        Learning for Very Deep Networks. 2015, equation (1), as in optax.
    """

    ranges: ClassVar[dict[str, Range]] = {"eta": NON_NEGATIVE, "gamma": NON_NEGATIVE}

    seed: int

    def __init__(self, eta: Any = 0.01, gamma: Any = 0.55, seed: int = 0) -> None:
        self.declare(eta=eta, gamma=gamma, seed=positive_int("seed", seed, least=0))

    def apply(
        self,
        gs: list[Tensor],
        ws: list[Tensor],
        shared: dict[str, Tensor],
        h: Hyperparameters,
    ) -> tuple[list[Tensor], dict[str, Tensor]]:
        """Adds noise of its own to each gradient."""
        del ws
        deviation = ops.sqrt(h.eta / h.step**h.gamma)
        return [
            g + ops.cast(deviation * h.normal(g.shape, self.seed, number), g.dtype)
            for number, g in enumerate(gs)
        ], shared
