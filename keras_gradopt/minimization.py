"""Minimization: a gradient-free rule and a function of a vector, without a model."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import scipy.optimize
from keras import ops

from keras_gradopt import backend
from keras_gradopt.arguments import positive_int

Tensor = Any


class Minimization:
    """Keeps one vector as the only weights of a gradient-free rule, and asks for its losses.

    Numbers are float64, but on JAX, where they are what `jax_enable_x64` says.

    Args:
        rule: The optimizer; it is built on the vector.
        point: Where to start, numbers of any shape.

    Attributes:
        evaluations: Losses that were told.
        best: The point of the smallest loss told so far, shape (size,); None before.
        best_loss: Its loss.
    """

    def __init__(self, rule: Any, point: Any) -> None:
        self._rule = rule
        self._point = keras.Variable(
            self._checked(point), dtype=backend.widest_float(), name="point"
        )
        rule.build([self._point])
        self._compile()
        self._at_first = [np.array(ops.convert_to_numpy(v)) for v in rule.variables]
        self._begin()

    def restart(self, point: Any) -> None:
        """Puts everything back to its start, at another point of the same size."""
        point = self._checked(point)
        if len(point) != self._rule.size:
            raise ValueError(
                f"This {type(self._rule).__name__} was started on {self._rule.size} numbers and "
                f"cannot go over to {len(point)}. Make a new one."
            )
        self._point.assign(ops.convert_to_tensor(point, self._point.dtype))
        self._rule.set_weights(self._at_first)
        self._begin()

    def _compile(self) -> None:
        # Bound methods of one object are one function to JAX, whose old programs would be found.
        self._sample = backend.compiled(functools.partial(self._sampled))
        self._learn = backend.compiled(functools.partial(self._learned))

    def _begin(self) -> None:
        self.evaluations = 0
        self.best: np.ndarray | None = None
        self.best_loss = float("inf")
        self._points: np.ndarray | None = None
        self._message, self._success = "the search goes on", False

    def _checked(self, point: Any) -> np.ndarray:
        point = np.asarray(point, "float64").reshape(-1)
        if not point.size or not np.all(np.isfinite(point)):
            raise ValueError(
                f"{type(self._rule).__name__} starts from a vector of finite numbers, received "
                f"{np.array2string(point, threshold=6)}."
            )
        return point

    @property
    def mean(self) -> np.ndarray:
        """Where the weights of a model would be."""
        return np.array(ops.convert_to_numpy(self._point))

    def ask(self) -> np.ndarray:
        """See `GradientFree.ask`."""
        if self._points is None:
            rule, state = self._rule, self._state()
            count = int(rule.chunks(dict(zip(rule.shared_variables, state[2:], strict=True))))
            chunks = [self._sample(*state, _whole(chunk)) for chunk in range(count)]
            self._points = np.concatenate([ops.convert_to_numpy(p) for p in chunks])
        return self._points.copy()

    def tell(self, losses: Any, again: Any = None) -> None:
        """See `GradientFree.tell`."""
        rule, points = self._rule, self.ask()
        given = [losses] if again is None else [losses, again]
        rows = [np.asarray(row, "float64").reshape(-1) for row in given]
        if any(len(row) != len(points) for row in rows) or len(rows) != rule.repeats:
            wanted = "losses" if rule.repeats == 1 else "losses twice, tell(losses, again)"
            raise ValueError(
                f"{type(rule).__name__} asked about {len(points)} points and is to be told their "
                f"{wanted}; received {' and '.join(str(len(row)) for row in rows)} numbers."
            )
        self.evaluations += len(points) * len(rows)
        found = np.mean(rows, axis=0)
        found[~np.isfinite(found)] = np.inf
        if found.min() < self.best_loss:
            self.best, self.best_loss = points[found.argmin()].copy(), float(found.min())
        whole = rule.chunk_size(rule.size) * rule.most_chunks(rule.size)
        table = np.full((rule.repeats, whole), np.inf)
        table[:, : len(points)] = rows
        w, shared = self._learn(*self._state(), ops.convert_to_tensor(table, self._point.dtype))
        self._point.assign(w)
        for variable, value in zip(rule.shared_variables.values(), shared, strict=True):
            variable.assign(value)
        rule.iterations.assign_add(1)
        self._points = None

    def minimize(
        self,
        function: Callable,
        max_evaluations: int,
        target: float | None,
        callback: Callable | None,
    ) -> Any:
        """See `GradientFree.minimize`."""
        max_evaluations = positive_int("max_evaluations", max_evaluations)
        self._message, self._success = "the evaluations are used up", False
        while self.evaluations < max_evaluations:
            points = self.ask()
            rows = [[float(function(p)) for p in points] for _ in range(self._rule.repeats)]
            self.tell(*rows)
            if callback is not None:
                callback(self.result())
            if target is not None and self.best_loss <= target:
                self._message, self._success = "the target is reached", True
                break
            reason, is_failure = self._rule.verdict(1)
            if reason is not None:
                self._message, self._success = reason, not is_failure
                break
        return self.result()

    def result(self) -> Any:
        """See `GradientFree.result`."""
        return scipy.optimize.OptimizeResult(
            x=self.mean if self.best is None else self.best,
            fun=self.best_loss,
            mean=self.mean,
            nfev=self.evaluations,
            nit=int(ops.convert_to_numpy(self._rule.iterations)),
            success=self._success,
            message=self._message,
        )

    def _state(self) -> list[Tensor]:
        rule = self._rule
        return backend.frozen([rule.iterations, self._point, *rule.shared_variables.values()])

    def _sampled(self, iterations: Tensor, w: Tensor, *more: Tensor) -> Tensor:
        *shared, chunk = more
        named = dict(zip(self._rule.shared_variables, shared, strict=True))
        with backend.keeping_double():
            return self._rule.sample(w, named, self._hyperparameters(iterations, w), chunk)

    def _learned(self, iterations: Tensor, w: Tensor, *more: Tensor) -> tuple[Tensor, list[Tensor]]:
        *shared, losses = more
        named = dict(zip(self._rule.shared_variables, shared, strict=True))
        rule, h = self._rule, self._hyperparameters(iterations, w)
        with backend.keeping_double():
            w, new = rule.settled(w, rule.learned(w, losses, named, h), named, h)
        return w, [new[name] for name in named]

    def _hyperparameters(self, iterations: Tensor, w: Tensor) -> Any:
        h = self._rule.hyperparameters(ops.cast(iterations, "int32") + 1)
        return h.cast(keras.backend.standardize_dtype(w.dtype))


def _whole(number: int) -> Tensor:
    return ops.convert_to_tensor(number, "int32")
