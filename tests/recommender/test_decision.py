"""The decision on recorded and hand-made probes, without any training."""

from __future__ import annotations

import math

import pytest

from recommender.candidates import Candidate, hurdle, safe_answer
from recommender.decision import choose, decide
from recommender.forecast import blind_record, forecast, replay
from recommender.knowledge.table import truth
from recommender.probes import ProbeResult, Rung
from recommender.settings import Setting

DEFAULT = hurdle().setting
SLOW, FAST = Setting("adam", 3e-3), Setting("adam", 1e-2)
CANDIDATES = [
    hurdle(),
    safe_answer(),
    Candidate(SLOW, "late_cooldown", "portfolio", 1.0, "three times the rate"),
    Candidate(FAST, "late_cooldown", "portfolio", 0.9, "ten times the rate"),
]


def blocks(mean: float, spread: float = 0.01) -> tuple[float, ...]:
    return tuple(mean + spread * (-1) ** i for i in range(8))


def results(
    default: tuple[float, ...], slow: tuple[float, ...], fast: tuple[float, ...]
) -> list[ProbeResult]:
    rows = {DEFAULT: default, SLOW: slow, FAST: fast}
    return [ProbeResult(s, (Rung(100, b),), (), None, "") for s, b in rows.items()]


def test_a_clear_leader_is_taken() -> None:
    decision = decide(CANDIDATES, results(blocks(1.0), blocks(0.95), blocks(0.5)), 2.0)
    assert (decision.candidate.setting, decision.basis, decision.code) == (FAST, "probe", None)
    assert "50% below the default's 1" in decision.reasons[0]


def test_of_two_good_ones_the_one_with_the_better_record_is_taken() -> None:
    # 0.4 of gain is more than 60 % of 0.5.
    decision = decide(CANDIDATES, results(blocks(1.0), blocks(0.6), blocks(0.5)), 2.0)
    assert decision.candidate.setting == SLOW
    assert "was lower still" in decision.reasons[1]


def test_a_gap_within_the_noise_gives_the_safe_answer() -> None:
    # The gap of 0.1 has a standard error of 0.15: the challenger's blocks scatter by 0.4.
    decision = decide(CANDIDATES, results(blocks(1.0), blocks(0.9, 0.4), blocks(1.2)), 2.0)
    assert (decision.candidate.role, decision.code) == ("safe", "noise_exceeds_gap")


def test_a_default_that_leads_gives_the_safe_answer() -> None:
    decision = decide(CANDIDATES, results(blocks(0.5), blocks(0.9), blocks(1.2)), 2.0)
    assert (decision.candidate.role, decision.code) == ("safe", "default_leads")


def test_probes_that_hardly_left_the_start_say_so() -> None:
    decision = decide(CANDIDATES, results(blocks(1.99), blocks(1.98), blocks(1.97)), 2.0)
    assert decision.code == "plateau_no_signal"


def test_without_a_comparison_the_budget_is_named() -> None:
    decision = decide(CANDIDATES, [ProbeResult(DEFAULT, (), (), None, "")], 2.0)
    assert (decision.candidate.role, decision.code) == ("safe", "budget_exhausted")


def test_a_diverged_challenger_is_never_taken() -> None:
    nothing = (math.inf,)
    decision = decide(CANDIDATES, results(blocks(1.0), blocks(0.5), nothing), 2.0)
    assert decision.candidate.setting == SLOW


def test_a_diverged_default_gives_way_to_what_holds() -> None:
    found = choose(
        {DEFAULT: (math.inf,), SLOW: blocks(0.9), FAST: (math.inf,)}, DEFAULT, {SLOW: 1, FAST: 1}
    )
    assert found == SLOW


def test_the_recorded_tasks_are_replayed_and_judged() -> None:
    outcomes = replay()
    assert {o.task for o in outcomes} == set(truth())
    assert all(math.isfinite(o.loss_ratio) for o in outcomes)
    for o in outcomes:
        if o.basis == "safe":
            assert "0.001, late cooldown" in o.answer
    # The record is quoted as odds: wins and losses with one of each added.
    probed = [o for o in outcomes if o.basis == "probe"]
    wins = sum(o.loss_ratio < 1 for o in probed)
    assert forecast("probe").p_beats_default == pytest.approx((wins + 1) / (len(probed) + 2))
    assert forecast("prior").tasks == len(blind_record()) == len(truth())


def test_odds_from_drawn_data_are_wider_and_nearer_to_even() -> None:
    real, drawn = forecast("probe"), forecast("probe", synthetic=True)
    assert abs(drawn.p_beats_default - 0.5) < abs(real.p_beats_default - 0.5)
    width = [f.loss_ratio[2] - f.loss_ratio[0] for f in (real, drawn)]
    assert width[1] == pytest.approx(2 * width[0])
