"""What the race leaves behind for diagnosis: the leader's errors on both sides of the split."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from recommender.budget import FORWARD
from recommender.examples import take
from recommender.measurements import MANY_GROUPS, Allowance, Noise, compiled_copy, noise_at
from recommender.models import forward
from recommender.population import Population
from recommender.probes import ProbeResult
from recommender.problem import Problem
from recommender.settings import Setting

# At most this many rows of either side are looked at.
ROWS = 1024
CHUNK_ROWS = 256


@dataclass(frozen=True)
class Rows:
    """The leader on some rows.

    Attributes:
        outputs: What it says; shape (rows, ...).
        targets: What is right.
        losses: Loss of each row; None where the loss has no value per row.
    """

    outputs: NDArray[np.float64]
    targets: NDArray[Any]
    losses: NDArray[np.float64] | None


class Aftermath:
    """What can be seen after the race.

    Args:
        population: The race's engine.
        results: The race.
        default: The hurdle.
        initial_loss: Validation loss before training.
        allowance: What checks may still cost.
    """

    def __init__(
        self,
        population: Population,
        results: Sequence[ProbeResult],
        default: Setting,
        initial_loss: float,
        allowance: Allowance,
    ) -> None:
        self.population = population
        self.problem: Problem = population.problem
        self.results = tuple(results)
        self.default = default
        self.initial_loss = initial_loss
        self._allowance = allowance

    @functools.cached_property
    def leader(self) -> ProbeResult | None:
        """Who went furthest, the lowest loss first, of those whose weights were not let go."""
        finite = [
            r
            for r in self.results
            if r.rungs and math.isfinite(r.rungs[-1].loss) and self.population.holds(r.setting)
        ]
        return min(finite, key=lambda r: (-r.rungs[-1].step, r.rungs[-1].loss), default=None)

    @functools.cached_property
    def held_out(self) -> Rows | None:
        """The leader's trunk on validation rows."""
        generator = np.random.default_rng([self.problem.seed, 43])
        order = generator.permutation(self.problem.validation.rows)
        return self._rows(self.problem.x_val, self.problem.y_val, np.sort(order[:ROWS]))

    @functools.cached_property
    def in_order(self) -> Rows | None:
        """The same on training rows, evenly spread, in the order in which they were given."""
        every = self.problem.training.rows
        rows = np.unique(np.linspace(0, every - 1, min(ROWS, every)).astype(int))
        return self._rows(self.problem.x, self.problem.y, rows)

    @functools.cached_property
    def noise(self) -> Noise | None:
        """How noisy the gradient is at the leader's weights."""
        if self.leader is None:
            return None
        at = self.population.model_at(self.population.trunk(self.leader.setting).state)
        model = compiled_copy(at, self.problem)
        return noise_at(model, self.population, self._allowance, MANY_GROUPS)

    def _rows(self, x: Any, y: Any, rows: NDArray[Any]) -> Rows | None:
        plain = isinstance(y, np.ndarray) and isinstance(self.problem.loss, keras.losses.Loss)
        if self.leader is None or not plain:
            return None
        price = FORWARD * len(rows) / self.problem.batch_size
        self._allowance.claim(price)
        self.population.budget.spend("diagnostics", price)
        trunk = self.population.trunk(self.leader.setting)
        model = self.population.model_at(trunk.state)
        outputs, losses = [], []
        for first in range(0, len(rows), CHUNK_ROWS):
            part = rows[first : first + CHUNK_ROWS]
            given = forward(model, take(x, part))
            outputs.append(_array(given))
            losses.append(self._each(y[part], given))
        each = None if any(one is None for one in losses) else np.concatenate(losses)
        return Rows(np.concatenate(outputs), y[rows], each)

    def _each(self, y: NDArray[Any], outputs: Any) -> Any:
        """Loss of each row, if the loss says so."""
        values = _array(self.problem.loss.call(keras.ops.convert_to_tensor(y), outputs))
        if values.ndim == 0 or len(values) != len(y):
            return None
        return values.reshape(len(y), -1).mean(1)


def _array(tensor: Any) -> NDArray[np.float64]:
    return np.asarray(keras.ops.convert_to_numpy(tensor), np.float64)
