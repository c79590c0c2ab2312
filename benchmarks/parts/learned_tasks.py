"""What a learned optimizer is tried on: what it was trained for, and ever farther from it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from keras import ops

from keras_gradopt.meta_training.tasks import Arrays, Classifiers, Quadratics, Task, digits

PROBLEMS, FEW = 24, 12
LONG = (200, 1000)


@dataclass(frozen=True)
class Family:
    """A row of the comparison.

    Attributes:
        title: What it is.
        task: Makes it.
        lengths: Steps of a training.
    """

    title: str
    task: Callable[[], Task]
    lengths: tuple[int, ...] = (100,)


class Regressors(Classifiers):
    """The same networks with one output and the mean squared error."""

    def __init__(self, x: np.ndarray, y: np.ndarray, **arguments: Any) -> None:
        super().__init__(x, np.zeros(len(y), "int32"), **arguments)
        self.y = np.asarray(y, "float32")

    def losses(self, ws: Sequence[Any], data: Sequence[Any]) -> Any:
        """Mean squared errors."""
        x, y = data
        rest = ops.squeeze(self.outputs(ws, x), axis=-1) - y
        return ops.mean(rest * rest, axis=-1)


class Convolutions(Classifiers):
    """Digits through eight 3 x 3 filters, relu, means of 2 x 2, and a dense layer.

    Patches are cut beforehand, so that a convolution is one product of matrices per problem.
    """

    def __init__(self, problems: int) -> None:
        from sklearn.datasets import load_digits

        images, y = load_digits(return_X_y=True)
        images = images.reshape(-1, 8, 8) / 16.0
        patches = np.stack(
            [images[:, i : i + 6, j : j + 6] for i in range(3) for j in range(3)], axis=-1
        )
        super().__init__(patches.reshape(len(y), -1), y, problems=problems)

    def start(self, rng: np.random.Generator) -> tuple[Arrays, Callable[[int], Arrays]]:
        """Filters and a dense layer, and minibatches."""
        _, minibatches = super().start(rng)
        ws: Arrays = []
        for ins, outs, fans in ((9, 8, 9 + 72), (72, 10, 72 + 10)):
            bound = np.sqrt(6.0 / fans)
            ws.append(rng.uniform(-bound, bound, size=(self.problems, ins, outs)).astype("float32"))
            ws.append(np.zeros((self.problems, outs), "float32"))
        return ws, minibatches

    def outputs(self, ws: Sequence[Any], x: Any) -> Any:
        """Logits."""
        filters, shift, kernel, bias = ws
        x = ops.reshape(x, (self.problems, -1, 9))
        x = ops.relu(ops.matmul(x, filters) + shift[:, None, :])
        x = ops.mean(ops.reshape(x, (self.problems, -1, 3, 2, 3, 2, 8)), axis=(3, 5))
        x = ops.reshape(x, (self.problems, -1, 72))
        return ops.matmul(x, kernel) + bias[:, None, :]


class Scaled(Task):
    """A task whose loss is multiplied by a factor, which no minimum notices."""

    def __init__(self, task: Task, factor: float) -> None:
        super().__init__(task.problems)
        self._task, self._factor = task, factor

    def start(self, rng: np.random.Generator) -> tuple[Arrays, Callable[[int], Arrays]]:
        """The task's own."""
        return self._task.start(rng)

    def losses(self, ws: Sequence[Any], data: Sequence[Any]) -> Any:
        """The task's, scaled."""
        return self._factor * self._task.losses(ws, data)


def _standardised(x: np.ndarray) -> np.ndarray:
    return (x - x.mean(axis=0)) / x.std(axis=0)


def _tabular(problems: int) -> Task:
    from sklearn.datasets import load_breast_cancer

    x, y = load_breast_cancer(return_X_y=True)
    return Classifiers(_standardised(x), y, problems=problems)


def _regression(problems: int) -> Task:
    from sklearn.datasets import load_diabetes

    x, y = load_diabetes(return_X_y=True)
    return Regressors(_standardised(x), _standardised(y), problems=problems)


def families() -> dict[str, Family]:
    """All of them, by a short name; the first two are what the shipped sets were trained for."""
    n, few = {"problems": PROBLEMS}, {"problems": FEW}
    return {
        "quadratics": Family("Quadratics in 10 dimensions", lambda: Quadratics(**n)),
        "mlp": Family("Digits, 20 sigmoid units", lambda: digits(**n)),
        "quadratics_long": Family("Quadratics in 10 dimensions", lambda: Quadratics(**n), LONG),
        "mlp_long": Family("Digits, 20 sigmoid units", lambda: digits(**few), LONG),
        "mlp_40": Family("Digits, 40 sigmoid units", lambda: digits(hidden=(40,), **few)),
        "mlp_deep": Family("Digits, 20 + 20 sigmoid units", lambda: digits(hidden=(20, 20), **few)),
        "mlp_tanh": Family("Digits, 20 tanh units", lambda: digits(activation="tanh", **few)),
        "mlp_relu": Family("Digits, 20 relu units", lambda: digits(activation="relu", **few)),
        "convolution": Family("Digits, small convolutional net", lambda: Convolutions(FEW)),
        "tabular": Family("Breast cancer, 20 sigmoid units", lambda: _tabular(FEW)),
        "regression": Family("Diabetes regression, 20 sigmoid units", lambda: _regression(FEW)),
        "loss_small": Family("Digits MLP, loss times 0.01", lambda: Scaled(digits(**few), 0.01)),
        "loss_large": Family("Digits MLP, loss times 100", lambda: Scaled(digits(**few), 100.0)),
        "badly_scaled": Family("Quadratics, rows 1 to 1/100", lambda: Quadratics(spread=100, **n)),
    }
