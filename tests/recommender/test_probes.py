"""Successive halving against a table worked out by hand, on a population that replays curves."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from recommender.budget import Budget
from recommender.population import Population
from recommender.probes import race
from recommender.settings import Setting
from tests.recommender.problems import problem

# Validation loss after n steps is level + 100 / n; a rate of 9 diverges at step 70.
LEVELS = {0.1: 5.0, 0.2: 3.0, 0.3: 4.0, 0.4: 2.0, 9.0: 0.0}
SETTINGS = [Setting("sgd", rate) for rate in LEVELS]
HURDLE = SETTINGS[0]


class Replayed(Population):
    """States are (rate, steps made)."""

    def _restarted(self) -> None:
        """Nothing is kept."""

    def _start(self, setting: Setting) -> Any:
        return setting.learning_rate, 0

    def _trained(self, state: Any) -> list[np.ndarray]:
        return [np.asarray(state[1])]

    def _pack(self, state: Any) -> list[np.ndarray]:
        return [np.asarray(value) for value in state]

    def _unpack(self, setting: Setting, arrays: Any) -> Any:
        return setting.learning_rate, int(arrays[1])

    def _train(self, state: Any, rates: Any, rows: Any) -> Any:
        rate, steps = state
        losses = np.array(
            [np.inf if rate == 9.0 and steps + i >= 70 else 1.0 for i in range(len(rates))]
        )
        return (rate, steps + len(rates)), losses

    def _validate(self, state: Any, x: Any, y: Any) -> float:
        return LEVELS[state[0]] + 100 / state[1]


def raced(tier: str, epochs: int = 2000) -> tuple[list, Budget]:
    asked = problem(epochs=epochs)
    budget = Budget(tier, asked.full_steps)
    return race(Replayed(asked, SETTINGS, budget), SETTINGS, HURDLE, budget), budget


def test_the_better_third_goes_on_and_the_hurdle_with_it() -> None:
    # 2 000 epochs of 10 steps: rungs at 1, 4 and 16 % of 20 000 steps.
    results, _ = raced("standard")
    steps = {r.setting.learning_rate: [rung.step for rung in r.rungs] for r in results}
    assert steps[0.1] == [200, 800, 3200]
    assert steps[0.4] == [200, 800, 3200]
    assert steps[0.2] == [200, 800]
    assert steps[0.3] == [200]
    assert steps[9.0] == [200]
    by_rate = {r.setting.learning_rate: r for r in results}
    assert by_rate[9.0].diverged_at == 70
    assert by_rate[9.0].stopped == "diverged"
    assert by_rate[0.3].stopped == "place 3 of 5 at step 200"
    # The cooldown is the last quarter of a rung's steps.
    assert by_rate[0.4].rungs[0].loss == pytest.approx(2.0 + 100 / 200)


def test_no_step_is_paid_twice() -> None:
    results, budget = raced("standard")
    validation = 1 / 3 * 80 / 32
    trunks = 2400 * 2 + 600 + 150 + 128  # the diverging one ends with the chunk it broke in
    branches = 50 * 4 + 200 * 3 + 800 * 2
    seen = sum(len(r.rungs) for r in results) - 1
    assert budget.spent == pytest.approx(trunks + branches + seen * validation)
    assert budget.spent <= budget.limit


def test_the_race_ends_where_the_next_rung_does_not_fit() -> None:
    results, budget = raced("quick", epochs=700)
    assert budget.spent <= budget.limit
    rungs = [len(r.rungs) for r in results]
    assert rungs[0] == 1
    assert sum(rungs) >= 2


def test_a_budget_for_one_candidate_makes_no_race() -> None:
    asked = problem(epochs=100)
    budget = Budget("quick", asked.full_steps)
    budget.spend("diagnosis", 50)  # 50 of 100 are left; the first rung takes 40 and a validation
    results = race(Replayed(asked, SETTINGS, budget), SETTINGS, HURDLE, budget)
    assert all(not r.rungs for r in results)
    assert budget.spent == 50
