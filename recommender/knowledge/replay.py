"""Probes that cost nothing: recorded trainings, shown and charged as if they were run now."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recommender.budget import GRADIENT, Budget
from recommender.errors import BudgetExhausted
from recommender.knowledge import grid
from recommender.knowledge.grid import Choice
from recommender.knowledge.table import Record
from recommender.progress import Progress
from recommender.settings import Setting

Array = NDArray[np.float32]


class Bench:
    """One recorded task under one seed, for a decision rule that pays for what it looks at.

    What has been trained is not paid again: a trunk goes on from where it was, and constant rate
    and late cooldown share theirs.

    Args:
        record: The task.
        seed: The recorded seed that is shown.
        tier: What may be spent; None for no limit.

    Attributes:
        record: The task; rules read `facts` only, the arrays are what they are judged by.
        budget: The account.
    """

    def __init__(self, record: Record, seed: int, tier: str | None = None) -> None:
        self.record = record
        self.seed = seed
        self.budget = Budget(tier or "thorough", record.full_steps)
        if tier is None:
            self.budget.limit = math.inf
        self._trained: dict[Setting | Choice, int] = {}
        self._branched: set[tuple[Setting, float]] = set()

    @property
    def spent(self) -> float:
        """What was paid, as a fraction of one full training."""
        return self.budget.spent / self.record.full_steps

    def curve(self, choice: Choice, share: float) -> Array:
        """Validation losses at the recorded points up to this share of the full length.

        Pays for the steps and for one validation at the last of the points.

        Raises:
            BudgetExhausted: It does not fit; nothing is paid then.
        """
        full = self.record.full_steps
        until = round(share * full)
        cooled = grid.horizons(full)[1.0][1]
        validation = self.record.validation_price
        if choice.shape == "late_cooldown" and until > cooled:
            self._train({choice.setting: cooled, choice: until - cooled}, validation)
        elif choice in self.record.grid.shaped:
            self._train({choice: until}, validation)
        else:
            self._train({choice.setting: until}, validation)
        return self.record.curve(choice, self.seed)[self.record.points <= until]

    def branch(self, setting: Setting, horizon: float) -> Array:
        """Validation blocks after a training of that length with a late cooldown.

        Args:
            setting: A trunk of the grid.
            horizon: One of `grid.HORIZONS` that is long enough to have been recorded.

        Raises:
            BudgetExhausted: It does not fit; nothing is paid then.
        """
        blocks = self.record.branch(setting, self.seed, horizon)
        if blocks is None:
            raise ValueError(f"{horizon:.0%} of {self.record.full_steps} steps is too short.")
        if (setting, horizon) not in self._branched:
            length, start = grid.horizons(self.record.full_steps)[horizon]
            price = GRADIENT * (length - start) + self.record.validation_price
            self._train({setting: start}, price)
            self._branched.add((setting, horizon))
        return blocks

    def branch_price(self, setting: Setting, horizon: float) -> float:
        """What `branch` would cost now, in gradient evaluations."""
        if (setting, horizon) in self._branched:
            return 0.0
        length, start = grid.horizons(self.record.full_steps)[horizon]
        ahead = max(0, start - self._trained.get(setting, 0))
        return GRADIENT * (ahead + length - start) + self.record.validation_price

    def range_test(self) -> tuple[NDArray[np.float64], Array]:
        """Rates and the loss before each step at them (Adam)."""
        self.budget.spend("range_test", GRADIENT * len(grid.RANGE_TEST))
        return grid.RANGE_TEST, self.record.arrays["range_test"][self.seed]

    def _train(self, to: dict[Any, int], extra: float) -> None:
        ahead = {key: max(0, step - self._trained.get(key, 0)) for key, step in to.items()}
        price = GRADIENT * sum(ahead.values()) + extra
        if not self.budget.affords(price):
            raise BudgetExhausted(f"{price:.0f} gradients do not fit.")
        self.budget.spend("training", price)
        for key, step in to.items():
            self._trained[key] = max(step, self._trained.get(key, 0))


class RecordedPopulation:
    """A race's trainings, read off a bench.

    Args:
        bench: The recorded task; its budget pays.
    """

    def __init__(self, bench: Bench) -> None:
        self.progress = Progress()
        self._bench = bench
        self._shares = {
            pair: share for share, pair in grid.horizons(bench.record.full_steps).items()
        }

    def rung_price(self, setting: Setting, length: int, start: int) -> float:
        """What `rung` would cost now, in gradient evaluations."""
        return self._bench.branch_price(setting, self._shares[length, start])

    def rung(self, setting: Setting, length: int, start: int) -> tuple[float, ...]:
        """Validation blocks after `length` steps, cooled down from step `start` on."""
        blocks = self._bench.branch(setting, self._shares[length, start])
        return tuple(float(b) for b in blocks)

    def stop(self, setting: Setting) -> None:
        """Nothing is held."""

    def trunk(self, setting: Setting) -> RecordedTrunk:
        """Nothing of the run at constant rate but what `rung` shows."""
        return RecordedTrunk()


@dataclass(frozen=True)
class RecordedTrunk:
    """A trunk whose minibatch losses were not recorded step by step."""

    losses: tuple[float, ...] = ()
    diverged_at: int | None = None
