"""The race against a table worked out by hand, on a population that replays curves."""

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

    def _model_at(self, state: Any) -> Any:
        raise NotImplementedError

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

    def _validate(self, state: Any, block: Any) -> float:
        return LEVELS[state[0]] + 100 / state[1]


# What is expected of them: the diverging one most, then the lower levels.
PRIORS = dict(zip(SETTINGS, (1.0, 0.4, 0.5, 0.3, 0.2), strict=True))
INITIAL = 200.0


def raced(tier: str, epochs: int = 2000, **options: Any) -> tuple[list, Budget]:
    asked = problem(epochs=epochs)
    budget = Budget(tier, asked.full_steps)
    population = Replayed(asked, SETTINGS, budget)
    return race(population, PRIORS, HURDLE, INITIAL, budget, **options), budget


def reached(results: list) -> dict[float, list[int]]:
    return {r.setting.learning_rate: [rung.step for rung in r.rungs] for r in results}


def test_fewer_go_on_from_rung_to_rung() -> None:
    # 2 000 epochs of 10 steps: rungs at 1, 4 and 16 % of 20 000 steps, with room for 8, 4 and 2.
    results, _ = raced("standard")
    assert reached(results) == {
        0.1: [200, 800], 0.2: [200, 800, 3200], 0.3: [200, 800], 0.4: [200, 800, 3200], 9.0: [200],
    }  # fmt: skip
    by_rate = {r.setting.learning_rate: r for r in results}
    assert by_rate[9.0].diverged_at == 70
    assert by_rate[9.0].stopped == "diverged"
    assert by_rate[0.3].stopped == "place 3 of 4 at step 800"
    assert by_rate[0.4].stopped == "place 1 of 2 at step 3200"
    # The cooldown is the last quarter of a rung's steps.
    assert by_rate[0.4].rungs[0].loss == pytest.approx(2.0 + 100 / 200)


def test_the_hurdle_and_the_wanted_stand_at_the_first_rung() -> None:
    asked = problem(epochs=2000)
    budget = Budget("quick", asked.full_steps)
    many = [Setting("sgd", 0.2 + 0.01 * i) for i in range(9)]
    LEVELS.update({s.learning_rate: 3.0 for s in many})
    priors = {s: 0.1 * i for i, s in enumerate(many)} | {HURDLE: 5.0}
    results = race(
        Replayed(asked, [*many, HURDLE], budget), priors, HURDLE, INITIAL, budget, {many[-1]}
    )
    stood = {r.setting for r in results if r.rungs}
    assert stood == {HURDLE, many[-1], many[0], many[1]}
    left = next(r for r in results if r.setting == many[5])
    assert left.stopped == "the budget ended before its first rung"


def test_no_step_is_paid_twice() -> None:
    results, budget = raced("standard")
    validation = 1 / 3 * 80 / 32
    trunks = 2400 * 2 + 600 * 2 + 128  # the diverging one ends with the chunk it broke in
    branches = 50 * 4 + 200 * 4 + 800 * 2
    seen = sum(len(r.rungs) for r in results) - 1
    assert budget.spent == pytest.approx(trunks + branches + seen * validation)
    assert budget.spent <= budget.limit


def test_the_race_ends_where_the_next_rung_does_not_fit() -> None:
    results, budget = raced("quick", epochs=700)
    assert budget.spent <= budget.limit
    rungs = reached(results)
    assert rungs[0.1] == [140]
    assert sum(map(len, rungs.values())) == 4


def test_a_budget_for_one_candidate_makes_no_race() -> None:
    asked = problem(epochs=200)
    budget = Budget("quick", asked.full_steps)
    budget.spend("diagnosis", 150)  # 50 of 200 are left; the first rung takes 40 and a validation
    results = race(Replayed(asked, SETTINGS, budget), PRIORS, HURDLE, INITIAL, budget)
    assert all(not r.rungs for r in results)
    assert budget.spent == 150
