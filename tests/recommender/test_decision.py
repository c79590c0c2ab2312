"""Standing, decision and forecast on hand-made probes, without any training."""

from __future__ import annotations

import math

import numpy as np
import pytest

from recommender import words
from recommender.candidates import Candidate, hurdle
from recommender.decision import by_prior, decide, gap_to, last_rung
from recommender.forecast import Features, calibrate, forecast
from recommender.knowledge import prior
from recommender.knowledge.prior import CHOICES
from recommender.probes import ProbeResult, Rung
from recommender.settings import Setting
from recommender.standing import EVIDENCE, behind, evidence, standings

DEFAULT = hurdle().setting
SLOW, FAST = Setting("adam", 3e-3), Setting("adam", 1e-2)
CANDIDATES = [
    hurdle(),
    Candidate(SLOW, "late_cooldown", "portfolio", 0.4, "it has a good record"),
    Candidate(FAST, "late_cooldown", "portfolio", 0.6, "it has a fair record"),
]
FULL = 1000
PRIOR = "It was tried because on recorded tasks like this one it reached much."


def blocks(mean: float, spread: float = 0.01) -> tuple[float, ...]:
    return tuple(mean + spread * (-1) ** i for i in range(8))


def results(
    default: tuple[float, ...],
    slow: tuple[float, ...],
    fast: tuple[float, ...],
    step: int = FULL // 2,
) -> list[ProbeResult]:
    rows = {DEFAULT: default, SLOW: slow, FAST: fast}
    return [ProbeResult(s, (Rung(step, b),), (), None, "") for s, b in rows.items()]


# ---------------------------------------------------------------------- standing


def test_the_distance_from_the_leader_is_counted_in_logarithms() -> None:
    found = behind({"a": 1.0, "b": 1.02, "c": 3.0, "d": math.inf}, 5.0)
    assert found["a"] == 0
    assert found["b"] == pytest.approx(math.log(2))
    assert found["c"] == pytest.approx(math.log1p(100))
    assert found["d"] == pytest.approx(math.log1p(500))
    # Around 0 the scale is the progress made: 0.05 of 4 is 0.2.
    near = behind({"a": 0.0, "b": 0.004}, 4.0)
    assert near["b"] == pytest.approx(math.log(2))
    assert behind({"a": math.inf, "b": math.inf}, 1.0) == {"a": 0.0, "b": 0.0}


def test_longer_probes_count_more() -> None:
    assert all(evidence(share) == pytest.approx(weight) for share, weight in EVIDENCE.items())
    shares = np.geomspace(0.005, 1, 50)
    assert (np.diff([evidence(s) for s in shares]) >= 0).all()
    assert evidence(math.sqrt(0.25 * 0.5)) == pytest.approx(math.sqrt(1.5 * 10))


def test_the_prior_wins_early_and_the_probe_late() -> None:
    priors, losses = {"known": 0.2, "unknown": 0.8}, {"known": 1.1, "unknown": 1.0}
    assert next(iter(standings(priors, losses, 2.0, 0.01))) == "known"
    assert next(iter(standings(priors, losses, 2.0, 0.5))) == "unknown"
    early = standings(priors, losses, 2.0, 0.01)
    assert early["known"] == pytest.approx(0.2 + 0.1 * math.log(6))
    assert early["unknown"] == 0.8
    broken = standings(priors, {"known": math.inf, "unknown": 1.0}, 2.0, 0.01)
    assert list(broken) == ["unknown", "known"]
    assert broken["known"] == math.inf


# ---------------------------------------------------------------------- decision


def test_a_clear_leader_of_a_long_race_is_taken() -> None:
    decision = decide(CANDIDATES, results(blocks(1.0), blocks(0.95), blocks(0.5)), 2.0, FULL)
    assert (decision.candidate.setting, decision.basis, decision.code) == (FAST, "probe", None)
    assert "It led the race" in decision.reasons[0]
    assert "50% below" in decision.reasons[1]
    assert decision.gap == pytest.approx(math.log(0.5))
    assert decision.share == 0.5


def test_early_the_one_with_the_better_record_is_taken() -> None:
    found = results(blocks(1.0), blocks(0.55), blocks(0.5), step=10)
    decision = decide(CANDIDATES, found, 2.0, FULL)
    assert decision.candidate.setting == SLOW
    assert "was lower after 10 steps" in decision.reasons[0]


def test_a_lead_within_the_noise_says_so() -> None:
    found = results(blocks(1.0), blocks(0.90, 0.4), blocks(0.91))
    decision = decide(CANDIDATES, found, 2.0, FULL)
    assert (decision.candidate.setting, decision.code) == (SLOW, "noise_exceeds_gap")


def test_a_default_that_leads_is_the_answer() -> None:
    decision = decide(CANDIDATES, results(blocks(0.5), blocks(0.9), blocks(1.2)), 2.0, FULL)
    assert (decision.candidate.role, decision.code) == ("default", "default_leads")


def test_probes_that_hardly_left_the_start_leave_it_to_the_prior() -> None:
    decision = decide(CANDIDATES, results(blocks(1.99), blocks(1.98), blocks(1.97)), 2.0, FULL)
    assert (decision.basis, decision.code) == ("prior", "plateau_no_signal")
    assert decision.candidate.setting == SLOW


def test_without_a_comparison_the_budget_is_named() -> None:
    decision = decide(CANDIDATES, [ProbeResult(DEFAULT, (), (), None, "")], 2.0, FULL)
    assert (decision.basis, decision.code) == ("prior", "budget_exhausted")


def test_a_diverged_challenger_is_never_taken() -> None:
    found = results(blocks(1.0), blocks(0.9), (math.inf,))
    assert decide(CANDIDATES, found, 2.0, FULL).candidate.setting == SLOW
    found = results((math.inf,), (math.inf,), blocks(0.9))
    assert decide(CANDIDATES, found, 2.0, FULL).candidate.setting == FAST


def test_the_last_rung_where_anybody_held_decides() -> None:
    rows = [
        ProbeResult(DEFAULT, (Rung(10, blocks(1.0)),), (), None, ""),
        ProbeResult(SLOW, (Rung(10, blocks(0.9)), Rung(40, (math.inf,))), (), 30, ""),
        ProbeResult(FAST, (Rung(10, blocks(0.8)), Rung(40, (math.inf,))), (), 35, ""),
    ]
    step, stood = last_rung(rows)
    assert (step, set(stood)) == (10, {DEFAULT, SLOW, FAST})
    assert gap_to(rows, SLOW, DEFAULT) == (pytest.approx(math.log(0.9)), 10)
    assert gap_to(rows, Setting("sgd", 1.0), DEFAULT) == (None, None)


# ---------------------------------------------------------------------- forecast


def test_odds_from_drawn_data_are_wider_and_nearer_to_even() -> None:
    known = prior.shipped()
    outlook = prior.Outlook(known, np.full(len(known.tasks), 1 / len(known.tasks)))
    decision = by_prior(
        [Candidate(c.setting, c.shape, "portfolio", 0.5, "") for c in CHOICES[1:4]], None
    )
    real = forecast(outlook, decision, "quick")
    drawn = forecast(outlook, decision, "quick", synthetic=True)
    assert abs(drawn.p_beats_default - 0.5) < abs(real.p_beats_default - 0.5)
    spread = [[math.log(r) for r in f.loss_ratio] for f in (real, drawn)]
    assert spread[1][2] - spread[1][0] == pytest.approx(2 * (spread[0][2] - spread[0][0]))
    assert real.loss_ratio[0] < real.loss_ratio[1] < real.loss_ratio[2]


def test_intervals_cover_what_they_were_calibrated_to() -> None:
    rng = np.random.default_rng(0)
    seen = []
    for _ in range(2000):
        middle, spread = rng.normal(-0.2, 0.2), rng.uniform(0.05, 0.3)
        log = 0.5 * middle - 0.1 + spread * rng.standard_t(4)
        share = min(max(0.5 - middle, 0.02), 0.98)
        seen.append((Features(share, middle, spread, 0.0), math.exp(log)))
    found = calibrate(seen[:1000])
    inside = 0
    for one, ratio in seen[1000:]:
        middle = found.middle[0] + found.middle[1] * one.middle
        low, high = middle - found.below * one.spread, middle + found.above * one.spread
        inside += low <= math.log(ratio) <= high
    assert inside / 1000 == pytest.approx(0.8, abs=0.04)
    # The line that was put in: slope 0.5 and intercept -0.1.
    assert found.middle[1] == pytest.approx(0.5, abs=0.1)
    assert found.middle[0] == pytest.approx(-0.1, abs=0.03)


def test_each_reason_says_what_it_rests_on() -> None:
    raced = {"basis": "probe", "code": None, "reasons": ["It led.", PRIOR]}
    assert words.grounds(raced) == [("probe", "It led."), ("prior", PRIOR)]
    noisy = words.grounds(raced | {"code": "noise_exceeds_gap"})
    assert [kind for kind, _ in noisy] == ["probe", "rule", "prior"]
    ended = {"basis": "prior", "code": "budget_exhausted", "reasons": ["It did not last.", PRIOR]}
    assert [kind for kind, _ in words.grounds(ended)] == ["rule", "rule", "prior"]
    default = {"basis": "prior", "code": None, "reasons": ["It was tried because it is a hurdle."]}
    assert [kind for kind, _ in words.grounds(default)] == ["rule"]
