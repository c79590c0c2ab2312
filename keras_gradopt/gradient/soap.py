"""SOAP: Adam along the axes that Shampoo's statistics have."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar

from keras import ops

from keras_gradopt.arguments import Hyperparameters, positive_int
from keras_gradopt.linalg import along_axis, unfolding_square
from keras_gradopt.optimizer import Optimizer
from keras_gradopt.ranges import DECAY_RATE, EPSILON, Range
from keras_gradopt.slot import Slot
from keras_gradopt.tensors import either, one_minus_power

Tensor = Any
# Eigenvalues below this part of the largest are rounding in float32.
_NULL = 1e-5


class SOAP(Optimizer):
    r"""Adam in the eigenbasis of Shampoo's statistics, which are renewed every few steps.

    Use it where Shampoo would help and its roots cost too much or need too much tuning: the basis
    may be some steps old, since Adam follows the scales within it. For a gradient $G_t$, matrix
    bases $Q_L$, $Q_R$ and rate $\eta$, with $*$ and the root taken entry by entry:

    $$M_t = \beta_1 M_{t-1} + (1-\beta_1) G_t$$
    $$V_t = \beta_2 V_{t-1} + (1-\beta_2) G'_t * G'_t, \quad G'_t = Q_L^\top G_t Q_R$$
    $$N_t = \frac{Q_L^\top M_t Q_R / (1-\beta_1^{t-1})}{\sqrt{V_t / (1-\beta_2^{t-1})} + \epsilon},
      \quad W_t = W_{t-1} - \eta\, Q_L N_t Q_R^\top$$
    $$L_t = \beta_s L_{t-1} + (1-\beta_s) G_t G_t^\top, \quad
      R_t = \beta_s R_{t-1} + (1-\beta_s) G_t^\top G_t$$

    and every `precondition_frequency` steps one power iteration, $Q_L = \mathrm{QR}(L_t Q_L)$ and
    $Q_R$ alike, with columns and $V_t$ sorted by falling eigenvalue. Tensors have a basis per axis.
    The first step only starts the statistics and takes their eigenvectors. Vectors, and axes
    longer than `max_precondition_dim`, stay in their own coordinates.

    Args:
        learning_rate: Step size $\eta$, at least 0: a number or a schedule.
        beta_1: Decay $\beta_1$ of the first moment, in [0, 1).
        beta_2: Decay $\beta_2$ of the second moment, in [0, 1).
        shampoo_beta: Decay $\beta_s$ of the statistics, in [0, 1); None is `beta_2`.
        epsilon: $\epsilon$ above 0, in units of the gradient.
        weight_decay: Decoupled decay per unit of learning rate, at least 0; None is none.
        precondition_frequency: Steps between two renewals of the bases, at least 1.
        max_precondition_dim: Longest axis that has a basis; 0 is Adam.
        precondition_1d: Whether vectors have a basis too.
        **kwargs: Common arguments, see `keras_gradopt.Optimizer`.

    Example:
        >>> w = keras.Variable([[1.5, 0.5], [0.5, 1.5]])  # its singular values are 2 and 1
        >>> optimizer = SOAP(learning_rate=0.1, epsilon=1e-3, weight_decay=None)
        >>> optimizer.apply([w.value * 1.0], [w])  # finds the eigenbasis, moves nothing
        >>> optimizer.apply([w.value * 1.0], [w])  # both singular values fall by the rate
        >>> show(w)
        [[1.4, 0.5], [0.5, 1.4]]

    References:
        Vyas, Morwani, Zhao, Kwun, Shapira, Brandfonbrener, Janson, Kakade. SOAP: Improving and
        Stabilizing Shampoo using Adam. ICLR 2025, Algorithm 3 with Algorithm 4 for the bases.
        From the authors' implementation, which pytorch-optimizer follows, come the first step that
        moves nothing, the corrections that count from the second, and the sorted columns. Epsilon
        stands outside the corrected root, as in `Adam`; there it is added to the uncorrected one.
        Weights decay before the step and not after it. Where the first gradient leaves directions
        without any statistics, their basis follows the coordinates, not the rounding of the
        eigenvectors, so that it is the same on every machine.
    """

    ranges: ClassVar[dict[str, Range]] = {
        "beta_1": DECAY_RATE,
        "beta_2": DECAY_RATE,
        "shampoo_beta": DECAY_RATE,
        "epsilon": EPSILON,
    }

    def __init__(
        self,
        learning_rate: Any = 0.003,
        beta_1: Any = 0.95,
        beta_2: Any = 0.95,
        shampoo_beta: Any = None,
        epsilon: Any = 1e-8,
        weight_decay: Any = 0.01,
        precondition_frequency: int = 10,
        max_precondition_dim: int = 10000,
        precondition_1d: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(learning_rate=learning_rate, weight_decay=weight_decay, **kwargs)
        self.declare(beta_1=beta_1, beta_2=beta_2, shampoo_beta=shampoo_beta, epsilon=epsilon)
        self.declare(
            precondition_frequency=positive_int("precondition_frequency", precondition_frequency),
            max_precondition_dim=positive_int("max_precondition_dim", max_precondition_dim, 0),
            precondition_1d=precondition_1d,
        )

    def _axes(self, shape: tuple[int, ...]) -> list[int]:
        if len(shape) == 1 and not self.precondition_1d:
            return []
        return [i for i, n in enumerate(shape) if n <= self.max_precondition_dim]

    def slots(self, shape: tuple[int, ...]) -> Sequence[Slot]:
        """Both moments, the second one in the eigenbasis; per axis the statistics and the basis."""
        slots = [Slot("momentum"), Slot("velocity")]
        for axis in self._axes(shape):
            n = shape[axis]
            slots.append(Slot(f"statistics_{axis}", (n, n)))
            slots.append(Slot(f"basis_{axis}", (n, n), _eye(n)))
        return slots

    def update(self, w: Tensor, g: Tensor, *slots: Tensor, h: Hyperparameters) -> tuple:
        """One step for one variable."""
        m, v, *rest = slots
        axes, statistics, bases = self._axes(tuple(w.shape)), rest[::2], rest[1::2]
        starts = h.step <= 1
        count = ops.maximum(h.step - 1.0, 1.0)

        rotated = _rotated(g, bases, axes)
        new_m = h.beta_1 * m + (1 - h.beta_1) * g
        new_v = h.beta_2 * v + (1 - h.beta_2) * rotated * rotated
        m_hat = _rotated(new_m, bases, axes) / one_minus_power(h.beta_1, count)
        v_hat = new_v / one_minus_power(h.beta_2, count)
        step = _rotated(m_hat / (ops.sqrt(v_hat) + h.epsilon), bases, axes, back=True)
        w = ops.where(starts, w, w - h.learning_rate * step)
        m, v = ops.where(starts, m, new_m), ops.where(starts, v, new_v)

        if axes:
            decay = h.beta_2 if self.shampoo_beta is None else h.shampoo_beta
            statistics = [
                decay * s + (1 - decay) * unfolding_square(g, axis)
                for s, axis in zip(statistics, axes, strict=True)
            ]
            v, *bases = self._renewed(v, statistics, bases, axes, h)
        kept = [x for pair in zip(statistics, bases, strict=True) for x in pair]
        return (w, m, v, *kept)

    def _renewed(
        self, v: Tensor, statistics: list[Tensor], bases: list[Tensor], axes: list[int], h: Any
    ) -> list[Tensor]:
        """The second moment and the bases after this step's statistics."""

        def first() -> list[Tensor]:
            return [v, *(_eigenbasis(s) for s in statistics)]

        def iterated() -> list[Tensor]:
            sorted_v, found = v, []
            for s, q, axis in zip(statistics, bases, axes, strict=True):
                product = ops.matmul(s, q)
                order = ops.argsort(-ops.sum(q * product, axis=0))
                sorted_v = ops.take(sorted_v, order, axis=axis)
                found.append(ops.qr(ops.take(product, order, axis=1))[0])
            return [sorted_v, *found]

        def renewed() -> list[Tensor]:
            return either(ops.less_equal(h.step, 1), first, iterated)

        if self.precondition_frequency == 1:
            return renewed()
        past = ops.mod(h.step - 1.0, float(self.precondition_frequency))
        return either(ops.equal(past, 0.0), renewed, lambda: [v, *bases])


def _eye(n: int) -> Callable[[Tensor], Tensor]:
    return lambda w: ops.eye(n, dtype=w.dtype)


def _eigenbasis(statistics: Tensor) -> Tensor:
    """Eigenvectors by falling eigenvalue; those of eigenvalue 0 are told apart by coordinates.

    eigh leaves the basis of a space with one eigenvalue to rounding, and Adam's step depends on it.
    """
    n = statistics.shape[0]
    values, vectors = ops.eigh(statistics)
    # A gradient of zeros has the eigenvalue 0 only.
    values = values / ops.maximum(values[-1], 1e-30)
    is_null = ops.cast(values < _NULL, values.dtype)
    spanned = ops.matmul(vectors * (values * (1 - is_null)), ops.transpose(vectors))
    null = ops.matmul(vectors * is_null, ops.transpose(vectors))
    # Between -2 and -1 on the null space, apart from the others, which lie between 0 and 1.
    distinct = ops.reshape(ops.linspace(1.0, 2.0, n, dtype=values.dtype), (n, 1))
    apart = spanned - ops.matmul(null, distinct * null)
    return ops.flip(ops.eigh((apart + ops.transpose(apart)) / 2)[1], axis=1)


def _rotated(x: Tensor, bases: list[Tensor], axes: list[int], *, back: bool = False) -> Tensor:
    """Coordinates of a tensor in the bases of its axes, or the tensor of such coordinates."""
    for q, axis in zip(bases, axes, strict=True):
        x = along_axis(q if back else ops.transpose(q), x, axis)
    return x
