"""LearnedOptimizer: an LSTM that was trained to take the steps."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
from keras import ops

from keras_gradopt.learned import LearnedRule
from keras_gradopt.slot import Slot

Tensor = Any
UNITS = 20
# The gradient's logarithm, and its sign.
_FEATURES = 2
# Gradients below exp(-10) are taken as they are, others by their logarithm.
_P = 10.0


class LearnedOptimizer(LearnedRule):
    r"""An LSTM that learned to optimize small networks takes the steps.

    Use it on short trainings of small models like those it was trained on, and to study learned
    optimizers; elsewhere a tuned Adam is the safer choice (`docs/learned.md` shows where it
    generalises and where it does not). Every coordinate has an LSTM of two layers with 20 units to
    itself, with the same weights $\phi$. It reads the coordinate's gradient $g$ and gives its step:

    $$x_t = \begin{cases} (\log|g_t| / p,\ \mathrm{sign}\, g_t) & |g_t| \ge e^{-p} \\
      (-1,\ e^p g_t) & \text{else} \end{cases} \qquad p = 10$$
    $$(u_t, s_t) = \mathrm{LSTM}_\phi(x_t, s_{t-1}), \quad w_t = w_{t-1} + \eta u_t$$

    The state $s$ is 80 numbers for every parameter: a model of a million parameters takes 320 MB
    of it.

    Args:
        learning_rate: Factor $\eta$ of what the network proposes, at least 0: a number or a
            schedule. At 0.1 the shipped networks do what they were trained for.
        weights: What the network learned. `"mlp"` on networks with 20 sigmoid units for handwritten
            digits, `"quadratics"` on random quadratics in 10 dimensions. Or the path of a file that
            `keras_gradopt.learned.meta_train` wrote, or its arrays by name: these numbers go into
            the config, so a saved model needs the file no more.
        **kwargs: Common arguments, see `keras_gradopt.Optimizer`.

    Raises:
        ValueError: `weights` is neither a set nor a file, or holds arrays of other shapes.

    Example:
        >>> w = keras.Variable([1.0, -2.0])
        >>> optimizer = LearnedOptimizer(weights="quadratics")
        >>> for _ in range(40):
        ...     optimizer.apply([2 * w], [w])      # the loss begins at 5
        >>> bool(ops.sum(w * w) < 0.05)
        True

    References:
        Andrychowicz, Denil, Gomez, Hoffman, Pfau, Schaul, Shillingford, de Freitas. Learning to
        learn by gradient descent by gradient descent. NeurIPS 2016, section 2.1 and appendix A. The
        shipped sets were trained on other data than the paper's (digits of 8 x 8 pixels), some with
        the sum of the losses' logarithms as the objective: see `docs/learned.md`.
    """

    shapes: ClassVar[dict[str, tuple[int, ...]]] = {
        "kernel_1": (_FEATURES + UNITS, 4 * UNITS),
        "bias_1": (4 * UNITS,),
        "kernel_2": (UNITS + UNITS, 4 * UNITS),
        "bias_2": (4 * UNITS,),
        "kernel_out": (UNITS, 1),
        "bias_out": (1,),
    }

    def __init__(self, learning_rate: Any = 0.1, weights: Any = "mlp", **kwargs: Any) -> None:
        super().__init__(learning_rate=learning_rate, weights=weights, **kwargs)

    @classmethod
    def memory(cls, shape: tuple[int, ...]) -> Sequence[Slot]:
        """Output and cell of both layers, 20 numbers each for every coordinate."""
        names = ("output_1", "cell_1", "output_2", "cell_2")
        return tuple(Slot(name, shape=(*shape, UNITS)) for name in names)

    @classmethod
    def proposal(cls, arrays: Sequence[Tensor], g: Tensor, *slots: Tensor) -> tuple:
        """What the second layer's output says, coordinate by coordinate."""
        kernel_1, bias_1, kernel_2, bias_2, kernel_out, bias_out = arrays
        shape = tuple(g.shape)
        rows = -1 if None in shape else math.prod(shape)
        h1, c1, h2, c2 = (ops.reshape(s, (rows, UNITS)) for s in slots)
        x = preprocessed(ops.reshape(g, (rows,)))
        h1, c1 = lstm(x, h1, c1, kernel_1, bias_1)
        h2, c2 = lstm(h1, h2, c2, kernel_2, bias_2)
        u = ops.matmul(h2, kernel_out) + bias_out
        like = ops.shape(g) if None in shape else shape
        return (ops.reshape(u, like), *(ops.reshape(s, (*like, UNITS)) for s in (h1, c1, h2, c2)))

    @classmethod
    def untrained(cls, rng: np.random.Generator) -> list[np.ndarray]:
        """Uniform within one over the root of the units; gates that forget little at first."""
        bound = 1.0 / math.sqrt(UNITS)
        arrays = {
            name: rng.uniform(-bound, bound, size=shape) for name, shape in cls.shapes.items()
        }
        for name in ("bias_1", "bias_2"):
            arrays[name][UNITS : 2 * UNITS] = 1.0
        # Steps of nearly nothing, from which training finds out.
        arrays["kernel_out"] *= 0.1
        arrays["bias_out"] *= 0.0
        return [array.astype("float32") for array in arrays.values()]


def preprocessed(g: Tensor) -> Tensor:
    r"""The gradient in two numbers of order one, whatever its scale.

    $(\log|g| / p, \mathrm{sign}\, g)$ where $|g| \ge e^{-p}$, else $(-1, e^p g)$, with $p = 10$.

    Args:
        g: (coordinates,).

    Returns:
        (coordinates, 2).
    """
    size = ops.abs(g)
    is_large = size >= math.exp(-_P)
    # Within reach of the logarithm also where it is not taken.
    logarithm = ops.log(ops.maximum(size, math.exp(-_P))) / _P
    small = ops.clip(g, -math.exp(-_P), math.exp(-_P)) * math.exp(_P)
    return ops.stack(
        [ops.where(is_large, logarithm, -1.0), ops.where(is_large, ops.sign(g), small)], axis=-1
    )


def lstm(x: Tensor, h: Tensor, c: Tensor, kernel: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    r"""One step of an LSTM for all rows.

    $$(i, f, z, o) = [x, h] K + b, \quad c' = \sigma(f) c + \sigma(i) \tanh z, \quad
      h' = \sigma(o) \tanh c'$$

    Args:
        x: Input, (rows, inputs).
        h: Last output, (rows, units).
        c: Cell, (rows, units).
        kernel: $K$, (inputs + units, 4 units).
        bias: $b$, (4 units,).

    Returns:
        The output and the cell.
    """
    gates = ops.matmul(ops.concatenate([x, h], axis=-1), kernel) + bias
    i, f, z, o = ops.split(gates, 4, axis=-1)
    c = ops.sigmoid(f) * c + ops.sigmoid(i) * ops.tanh(z)
    return ops.sigmoid(o) * ops.tanh(c), c
