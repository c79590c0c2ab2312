"""EKFAC: K-FAC with the curvature along each direction of its eigenbasis measured."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from keras import ops

from keras_gradopt import kronecker
from keras_gradopt.arguments import Hyperparameters
from keras_gradopt.closure.kfac import KFAC, averaged
from keras_gradopt.kronecker import Pair
from keras_gradopt.layers import Block
from keras_gradopt.slot import Slot
from keras_gradopt.tensors import either

Tensor = Any


class EKFAC(KFAC):
    r"""K-FAC that measures the curvature along its eigenvectors, which may then be older.

    Use it where K-FAC's inverses cost too much to be renewed often, and where its product is a poor
    approximation, as in convolutions; the model must be bound: `keras_gradopt.bind(model)`. With
    K-FAC's factors $A$, $G$, their eigenvectors $U_A$, $U_G$, an example's gradient $\nabla W_n$
    (drawn as `fisher` says), decay $\rho$, damping $\lambda$, and everything else as in `KFAC`:

    $$A = U_A \Lambda_A U_A^\top, \quad G = U_G \Lambda_G U_G^\top$$
    $$S_t = \rho S_{t-1} + (1-\rho) \,\mathrm{E}\left[(U_A^\top \nabla W_n U_G)^2\right]$$
    $$D_t = U_A \frac{U_A^\top \nabla W_t\, U_G}{S_t + \lambda} U_G^\top$$

    where squares and quotients are those of entries. With new eigenvectors $S$ starts from the
    products of their eigenvalues, which is K-FAC.

    Args:
        learning_rate: Step size $\eta$, at least 0: a number or a schedule.
        momentum: $\mu$, in [0, 1): a number or a schedule.
        damping: $\lambda$ above 0 in units of the loss' curvature, a number or a schedule.
        norm_constraint: The most that a step may change the model's predictions, above 0; None is
            no limit.
        decay: $\rho$, in [0, 1): how long factors and $S$ are averaged.
        fisher: `"mc"` or `"empirical"`, as in `KFAC`.
        curvature_interval: Steps between two looks at the layers, at least 1. The first costs one
            gradient more than others.
        inverse_interval: Steps between two computations of eigenvectors, at least 1.
        max_factor: The longest side of a layer whose factor is kept whole; along longer ones the
            basis is that of the weights.
        diagonal: Regular expressions that are searched in variables' paths: layers to treat by the
            diagonal of the curvature without a warning.
        seed: Of the random numbers behind `"mc"`, at least 0.
        **kwargs: Common arguments, see `keras_gradopt.Optimizer`.

    Example:
        >>> model = keras_gradopt.bind(model)
        >>> model.compile(optimizer=EKFAC(), loss="mse")
        >>> history = model.fit(x, y, batch_size=16, verbose=0)
        >>> float(model.optimizer.evaluations)     # 4 steps of two gradients
        8.0

    References:
        George, Laurent, Bouthillier, Ballas, Vincent. Fast Approximate Natural Gradient Descent in
        a Kronecker-factored Eigenbasis. NeurIPS 2018, Algorithm 1 with running averages. There is
        no start for $S$ in the paper. Positions of images and sequences are summed before they are
        squared; a row of an embedding that an example looks up twice counts as of two examples.
    """

    def __init__(
        self,
        learning_rate: Any = 0.1,
        momentum: Any = 0.9,
        damping: Any = 3e-2,
        norm_constraint: Any = 1e-3,
        decay: Any = 0.95,
        fisher: Any = "mc",
        curvature_interval: int = 1,
        inverse_interval: int = 10,
        max_factor: int = 2048,
        diagonal: Sequence[str] = (),
        seed: int = 0,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            learning_rate,
            momentum,
            damping,
            norm_constraint,
            decay,
            fisher,
            curvature_interval,
            inverse_interval,
            max_factor,
            diagonal,
            seed,
            **kwargs,
        )

    def block_slots(self, block: Block) -> list[Slot]:
        """The factors, their eigenvectors, and the curvature along them."""
        shapes = kronecker.shapes(block, self._sides(block))
        named = {side: s for side, s in zip(kronecker.SIDES, shapes, strict=True) if s is not None}
        factors = [Slot(f"{side}_factor", shape) for side, shape in named.items()]
        bases = [Slot(f"{side}_basis", shape) for side, shape in named.items() if len(shape) == 3]
        return [*factors, *bases, Slot("curvature", (block.groups, block.rows, block.outputs))]

    def statistic_shapes(self, block: Block) -> list[tuple[int, ...]]:
        """Shapes of what `statistics` returns."""
        return [*super().statistic_shapes(block), (block.groups, block.rows, block.outputs)]

    def statistics(
        self, block: Block, own: tuple[Tensor, ...], a: Tensor, d: Tensor
    ) -> list[Tensor]:
        """The factors, and the squares of the examples' gradients in the present basis."""
        factors = super().statistics(block, own, a, d)
        bases = self._bases(block, own[len(factors) : -1])
        return [*factors, kronecker.second_moments(block, bases, a, d)]

    def _bases(self, block: Block, parts: Sequence[Tensor]) -> Pair:
        """The eigenvectors, None for the unit basis."""
        rest = list(parts)
        return Pair(*(rest.pop(0) if side == "full" else None for side in self._sides(block)))

    def natural(
        self,
        block: Block,
        own: tuple[Tensor, ...],
        found: Sequence[Tensor],
        g: Tensor,
        h: Hyperparameters,
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        """A layer's direction, and its new slots."""
        *found_factors, found_curvature = found
        count = len(found_factors)
        factors = averaged(own[:count], found_factors, h)

        def renewed() -> list[Tensor]:
            pair = self._pair([f * h.averaging["correction"] for f in factors])
            bases, curvature = kronecker.eigenbases(pair)
            return [*(b for b in bases if b is not None), curvature]

        def kept() -> list[Tensor]:
            return [*own[count:-1], *averaged([own[-1]], [found_curvature], h)]

        *parts, curvature = (
            renewed()
            if self.inverse_interval == 1
            else either(self._is_due(h, self.inverse_interval), renewed, kept)
        )
        bases = self._bases(block, parts)
        inside = kronecker.times(bases, g, transposed=True)
        inside = inside / (curvature + ops.cast(h.damping, curvature.dtype))
        return kronecker.times(bases, inside), (*factors, *parts, curvature)
