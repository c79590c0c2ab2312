"""A trunk: one setting trained at a constant rate, with copies cooled down off it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from recommender.memory import Point
from recommender.settings import Setting

if TYPE_CHECKING:
    from recommender.population import Population


class Trunk:
    """One setting trained at its constant rate, as far as anybody has paid for.

    Attributes:
        setting: What is trained.
        name: The same for this setting in every process.
        state: Where it stands.
        step: Steps taken.
        losses: Minibatch loss before each step.
        diverged_at: The step at which the loss stopped being finite, or None.
    """

    def __init__(self, population: Population, setting: Setting) -> None:
        self._population = population
        self.setting = setting
        self.state = population.start(setting)
        self.name = self.state.key
        self.step = 0
        self.losses: list[float] = []
        self.diverged_at: int | None = None

    def advance(self, to_step: int, purpose: str) -> None:
        """Go on to this step; free when it is already there, nothing to do after divergence."""
        count = to_step - self.step
        if count <= 0 or self.diverged_at is not None:
            return
        rates = np.full(count, self.setting.learning_rate, np.float32)
        rows = self._population.problem.batch_indices(self.step, count)
        begin, progress = self.step, self._population.progress
        self.state, losses = self._population.train(
            self.state,
            rates,
            rows,
            purpose,
            lambda first, values: progress.trained(
                self.setting, begin + first, values, self.setting.learning_rate
            ),
        )
        self.losses.extend(float(value) for value in losses)
        if len(losses) and not np.isfinite(losses[-1]):
            self.diverged_at = self.step + len(losses) - 1
        self.step += len(losses)
        if self.diverged_at is None:
            self._population.keep(self)

    def cooled(self, steps: int, purpose: str) -> Point | None:
        """A branch: a copy cooled linearly to 0 over `steps` more steps; None if it diverges."""
        if self.diverged_at is not None:
            return None
        rates = (self.setting.learning_rate * (1 - np.arange(steps) / steps)).astype(np.float32)
        rows = self._population.problem.batch_indices(self.step, steps)
        state, losses = self._population.train(self.state, rates, rows, purpose)
        return state if np.isfinite(losses).all() else None
