"""The account: everything is counted, nothing overruns."""

from __future__ import annotations

import pytest

from recommender.budget import SHARE, TIERS, Budget
from recommender.errors import BudgetExhausted, RequestError


def test_a_tier_allows_its_share_of_one_training() -> None:
    assert {tier: Budget(tier, 6000).limit for tier in TIERS} == {
        "instant": 0.0,
        "quick": 600.0,
        "standard": 3000.0,
        "thorough": 12000.0,
    }


def test_work_that_does_not_fit_is_refused_and_not_booked() -> None:
    budget = Budget("quick", 1000)
    budget.spend("a", 60)
    with pytest.raises(BudgetExhausted, match="needs 41 gradient evaluations, 40 of 100 are left"):
        budget.spend("b", 41)
    budget.spend("b", 40)
    cost = budget.cost()
    assert cost.by_purpose == {"a": 60, "b": 40}
    assert cost.fraction_of_full == pytest.approx(SHARE["quick"])


def test_seconds_count_too() -> None:
    now = [0.0]
    budget = Budget("quick", 1000, max_seconds=5, clock=lambda: now[0])
    budget.spend("a", 1)
    now[0] = 5.0
    with pytest.raises(BudgetExhausted, match="5.0 of 5 seconds"):
        budget.spend("a", 1)


def test_compile_time_is_kept_apart() -> None:
    now = [0.0]
    budget = Budget("quick", 1000, clock=lambda: now[0])
    with budget.compiling():
        now[0] += 3
    now[0] += 4
    cost = budget.cost()
    assert (cost.compile_seconds, cost.seconds) == (3.0, 7.0)


@pytest.mark.parametrize("limit", [0, -1, float("nan")])
def test_an_impossible_limit_is_refused(limit: float) -> None:
    with pytest.raises(RequestError, match="max_seconds must be above 0") as error:
        Budget("quick", 1000, max_seconds=limit)
    assert error.value.code == "impossible_budget"


def test_an_unknown_tier_is_refused() -> None:
    with pytest.raises(RequestError, match="tier must be one of instant, quick"):
        Budget("fast", 1000)
