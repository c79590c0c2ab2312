"""LBFGS: BFGS from the last few steps only, for any number of parameters."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from keras import ops

from keras_gradopt.arguments import positive_int
from keras_gradopt.closure.bfgs import BFGS
from keras_gradopt.landscape import Landscape, dot
from keras_gradopt.slot import Slot

Tensor = Any


class LBFGS(BFGS):
    r"""BFGS that keeps its last steps in the place of a matrix.

    Use it on smooth problems with the whole data, or large parts of it, as one minibatch: linear
    and logistic models, physics-informed networks, the end of a training; the model must be bound:
    `keras_gradopt.bind(model)`. With gradient $g_k$, steps $s_k = w_{k+1} - w_k$ and
    $y_k = g_{k+1} - g_k$ of the last $m$ iterations, and a step length $t_k$ that fulfils the
    strong Wolfe conditions:

    $$w_{k+1} = w_k - t_k H_k g_k$$
    $$H_k = V_{k-1}^T H_{k-1} V_{k-1} + \rho_{k-1} s_{k-1} s_{k-1}^T, \quad
    V_k = I - \rho_k y_k s_k^T, \quad \rho_k = 1 / \langle y_k, s_k \rangle$$

    begun $m$ iterations back at $\langle s_{k-1}, y_{k-1} \rangle / \|y_{k-1}\|^2$ times the
    identity. Each step of `fit` makes several iterations on its minibatch, and both gradients of a
    pair are of one minibatch, so that curvature is never mistaken for noise. Smaller minibatches
    want `iterations_per_step=1` and a learning rate below 1.

    Args:
        learning_rate: First trial of each search, in units of the direction, at least 0: 1 lets
            the curvature decide.
        memory: Pairs kept, at least 1; each takes twice the memory of the weights.
        iterations_per_step: Iterations on one minibatch, at least 1. Each costs one gradient or
            little more; the step itself one and a loss value.
        search_evaluations: Gradients that one search may take, at least 1.
        tolerance: Largest entry of the gradient, at least 0, at which the step stops.
        **kwargs: Common arguments, see `keras_gradopt.Optimizer`; clipping, weight decay and rates
            of groups are refused.

    Example:
        >>> model = keras_gradopt.bind(model)
        >>> model.compile(optimizer=LBFGS(), loss="mse")
        >>> history = model.fit(x, y, batch_size=64, epochs=5, verbose=0)
        >>> history.history["loss"][-1] < 0.1 * history.history["loss"][0]
        True

    References:
        Liu, Nocedal. On the limited memory BFGS method for large scale optimization. Mathematical
        Programming 1989; Nocedal, Wright. Numerical Optimization. 2006, algorithms 7.4 and 7.5.
        Pairs of one minibatch as in Schraudolph, Yu, Günter. A Stochastic Quasi-Newton Method for
        Online Convex Optimization. AISTATS 2007: the overlap of Berahas, Nocedal and Takáč (2016)
        is then the whole minibatch.
    """

    def __init__(
        self,
        learning_rate: Any = 1.0,
        memory: int = 10,
        iterations_per_step: int = 10,
        search_evaluations: int = 20,
        tolerance: float = 1e-7,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            learning_rate=learning_rate,
            iterations_per_step=iterations_per_step,
            search_evaluations=search_evaluations,
            tolerance=tolerance,
            **kwargs,
        )
        self.declare(memory=positive_int("memory", memory))

    def vector_slots(self, size: int) -> Sequence[Slot]:
        """Steps and changes of the gradient, the newest first, and how many there are."""
        shape = (self.memory, size)
        return (Slot("steps", shape), Slot("changes", shape), Slot("pairs", shape=()))

    def _check_size(self, variables: list[Any]) -> None:
        """Any size will do."""

    def direction(self, landscape: Landscape, g: Tensor, memory: dict[str, Tensor]) -> Tensor:
        """$-Hg$ by two loops over the pairs."""
        steps, changes = memory["steps"], memory["changes"]
        products = ops.sum(steps * changes, axis=1)
        rows = ops.arange(self.memory)
        valid = ops.cast(rows, g.dtype) < memory["pairs"]
        rho = ops.where(valid, 1.0 / ops.where(valid, products, 1.0), 0.0)

        def down(i: Any, q: Any, alphas: Any) -> tuple:
            alpha = rho[i] * dot(steps[i], q)
            here = ops.cast(ops.equal(rows, i), q.dtype)
            return i + 1, q - alpha * changes[i], alphas + alpha * here

        def up(i: Any, r: Any) -> tuple:
            beta = rho[i] * dot(changes[i], r)
            return i - 1, r + (alphas[i] - beta) * steps[i]

        first = ops.convert_to_tensor(0, "int32")
        last = ops.convert_to_tensor(self.memory - 1, "int32")
        _, q, alphas = landscape.loop(
            lambda i, *_: i < self.memory, down, (first, g, ops.zeros_like(rho))
        )
        square = dot(changes[0], changes[0])
        scale = ops.where(valid[0], products[0] / ops.where(valid[0], square, 1.0), 1.0)  # (7.20)
        _, r = landscape.loop(lambda i, *_: i >= 0, up, (last, scale * q))
        return -r

    def remembered(self, memory: dict[str, Tensor], s: Tensor, y: Tensor) -> dict[str, Tensor]:
        """The memory with one more pair, the oldest forgotten."""

        def pushed(rows: Tensor, row: Tensor) -> Tensor:
            return ops.concatenate([row[None], rows[:-1]])

        return {
            "steps": pushed(memory["steps"], s),
            "changes": pushed(memory["changes"], y),
            "pairs": ops.minimum(memory["pairs"] + 1, self.memory),
        }
