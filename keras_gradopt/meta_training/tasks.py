"""Tasks that learned rules are trained on: families of small problems, drawn anew each time."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, Literal

import numpy as np
from keras import ops

Tensor = Any
Arrays = list[np.ndarray]
Activation = Literal["sigmoid", "relu", "tanh"]


class Task(ABC):
    """A family of problems, of which a number are trained side by side.

    Args:
        problems: How many side by side, at least 1: the first axis of all weights and data.
    """

    def __init__(self, problems: int = 1) -> None:
        if problems < 1:
            raise ValueError(f"problems must be a whole number >= 1, received {problems!r}.")
        self.problems = problems

    @abstractmethod
    def start(self, rng: np.random.Generator) -> tuple[Arrays, Callable[[int], Arrays]]:
        """Problems drawn at random.

        Returns:
            Initial weights, float32, (problems, ...) each; and a function from a number of steps
            to the data of the next steps, (steps, problems, ...) each.
        """

    @abstractmethod
    def losses(self, ws: Sequence[Tensor], data: Sequence[Tensor]) -> Tensor:
        """The loss of each problem at one step.

        Args:
            ws: Weights, (problems, ...) each.
            data: The step's data, (problems, ...) each.

        Returns:
            (problems,).
        """


class Quadratics(Task):
    r"""$f(\theta) = \|W \theta - y\|^2$ with $W$ and $y$ drawn from the normal distribution.

    Args:
        size: Entries of $\theta$.
        problems: As in `Task`.
        spread: Rows of $W$ are scaled from 1 down to 1 / spread; 1 is the paper's.
    """

    def __init__(self, size: int = 10, problems: int = 32, spread: float = 1.0) -> None:
        super().__init__(problems)
        self.size, self.spread = size, spread

    def start(self, rng: np.random.Generator) -> tuple[Arrays, Callable[[int], Arrays]]:
        """Quadratics, and points near the origin."""
        shape = (self.problems, self.size)
        rows = np.geomspace(1.0, 1.0 / self.spread, self.size)[:, None]
        matrix = (rng.normal(size=(*shape, self.size)) * rows).astype("float32")
        target = rng.normal(size=shape).astype("float32")
        theta = (0.01 * rng.normal(size=shape)).astype("float32")

        def repeated(steps: int) -> Arrays:
            return [np.broadcast_to(a, (steps, *a.shape)) for a in (matrix, target)]

        return [theta], repeated

    def losses(self, ws: Sequence[Tensor], data: Sequence[Tensor]) -> Tensor:
        """Sums of squares."""
        (theta,), (matrix, target) = ws, data
        rest = ops.squeeze(ops.matmul(matrix, theta[..., None]), axis=-1) - target
        return ops.sum(rest * rest, axis=-1)


class Classifiers(Task):
    """Small dense networks with a softmax on data in memory, one minibatch a step.

    Weights start as those of `keras.layers.Dense` do.

    Args:
        x: (samples, features).
        y: Classes, whole numbers from 0, (samples,).
        hidden: Units of each hidden layer.
        activation: Of the hidden layers.
        batch_size: Samples of a minibatch.
        problems: As in `Task`.
    """

    def __init__(
        self,
        x: np.ndarray,
        y: np.ndarray,
        hidden: Sequence[int] = (20,),
        activation: Activation = "sigmoid",
        batch_size: int = 128,
        problems: int = 2,
    ) -> None:
        super().__init__(problems)
        self.x, self.y = np.asarray(x, "float32"), np.asarray(y, "int32")
        self.widths = (self.x.shape[1], *hidden, int(self.y.max()) + 1)
        self.batch_size = batch_size
        self._activation = {"sigmoid": ops.sigmoid, "relu": ops.relu, "tanh": ops.tanh}[activation]

    def start(self, rng: np.random.Generator) -> tuple[Arrays, Callable[[int], Arrays]]:
        """Networks, and minibatches drawn for each of them."""
        ws: Arrays = []
        for ins, outs in zip(self.widths[:-1], self.widths[1:], strict=True):
            bound = np.sqrt(6.0 / (ins + outs))
            ws.append(rng.uniform(-bound, bound, size=(self.problems, ins, outs)).astype("float32"))
            ws.append(np.zeros((self.problems, outs), "float32"))

        def minibatches(steps: int) -> Arrays:
            rows = rng.integers(len(self.x), size=(steps, self.problems, self.batch_size))
            return [self.x[rows], self.y[rows]]

        return ws, minibatches

    def losses(self, ws: Sequence[Tensor], data: Sequence[Tensor]) -> Tensor:
        """Mean cross-entropies."""
        x, y = data
        logits = self.outputs(ws, x)
        return ops.mean(ops.sparse_categorical_crossentropy(y, logits, from_logits=True), axis=-1)

    def outputs(self, ws: Sequence[Tensor], x: Tensor) -> Tensor:
        """The networks' outputs, (problems, samples, outputs)."""
        layers = list(zip(ws[::2], ws[1::2], strict=True))
        for number, (kernel, bias) in enumerate(layers, start=1):
            x = ops.matmul(x, kernel) + bias[:, None, :]
            x = x if number == len(layers) else self._activation(x)
        return x


def digits(**arguments: Any) -> Classifiers:
    """Classifiers of scikit-learn's handwritten digits, pixels in [0, 1].

    Args:
        **arguments: As in `Classifiers`.
    """
    from sklearn.datasets import load_digits

    x, y = load_digits(return_X_y=True)
    return Classifiers(x / 16.0, y, **arguments)
