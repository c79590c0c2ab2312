"""The prior against scikit-learn's forest, and the rule's rehearsal on recorded tasks."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from sklearn.ensemble import ExtraTreesRegressor

from recommender import forecast, rehearsal
from recommender.candidates import propose
from recommender.errors import RequestError
from recommender.knowledge import facts, grid, odds, prior
from recommender.knowledge.replay import Bench
from recommender.knowledge.score import penalty, score
from recommender.knowledge.table import truth
from recommender.probes import plan, width
from recommender.settings import Setting

pytestmark = pytest.mark.backend_free

EVERY = list(truth().values())
SOME = EVERY[::3]


@pytest.fixture(scope="module")
def grown() -> prior.Prior:
    return prior.grow(SOME)


def test_expectations_are_those_of_scikit_learn_s_forest(grown: prior.Prior) -> None:
    described = np.stack([facts.numbers(r.facts["description"]) for r in SOME])
    forest = ExtraTreesRegressor(
        prior.TREES, min_samples_leaf=prior.LEAF, max_features=prior.FEATURES, random_state=0
    ).fit(described, grown.whole)
    for r in EVERY[1::10]:
        theirs = forest.predict(facts.numbers(r.facts["description"])[None])[0]
        mine = grown.about(r.facts["description"])
        np.testing.assert_allclose(mine.expected, theirs, rtol=1e-9, atol=1e-12)
        assert mine.weights.sum() == pytest.approx(1)
        assert (mine.weights >= 0).all()


def test_a_known_task_is_its_own_nearest(grown: prior.Prior) -> None:
    hits = [grown.about(r.facts["description"]).nearest(1)[0][0] == r.name for r in SOME]
    assert np.mean(hits) > 0.9


def test_a_saved_prior_is_the_same(grown: prior.Prior, tmp_path: Path) -> None:
    prior.save(grown, tmp_path / "prior.npz")
    again = prior.load(tmp_path / "prior.npz")
    assert again.choices == grown.choices
    description = EVERY[1].facts["description"]
    assert again.about(description).ranked() == grown.about(description).ranked()


def test_the_shipped_prior_is_that_of_the_table() -> None:
    shipped = prior.shipped()
    assert set(shipped.tasks) == set(truth()), "run make publish"
    column = shipped.choices.index(prior.CHOICES[3])
    for r in EVERY[::20]:
        found = score(r, prior.CHOICES[3], range(r.seeds))
        row = shipped.tasks.index(r.name)
        assert shipped.penalty[row, column] == pytest.approx(penalty(r, found))
        assert shipped.excess[row, column] == pytest.approx(found.excess)
    assert set(odds()) == set(rehearsal.TIERS)


def test_the_penalty_is_0_for_the_best_and_1_for_the_default() -> None:
    for r in EVERY[::7]:
        default = penalty(r, score(r, prior.DEFAULT, range(r.seeds)))
        # The default's own seeds scatter around its target.
        assert default == pytest.approx(1, abs=0.6)


def test_quantiles_are_weighted() -> None:
    values, weights = np.array([3.0, 1.0, 2.0]), np.array([0.5, 0.2, 0.3])
    found = prior.quantiles(values, weights, (0.0, 0.2, 0.21, 0.5, 0.51, 1.0))
    assert found == [1.0, 1.0, 2.0, 2.0, 3.0, 3.0]
    plain = np.sort(np.random.default_rng(0).normal(size=99))
    same = np.full(99, 1 / 99)
    qs = (0.1, 0.5, 0.9)
    wanted = np.quantile(plain, qs, method="inverted_cdf").tolist()
    assert (
        prior.quantiles(plain, same, qs)
        == prior.quantiles(plain, same, qs, np.arange(99))
        == wanted
    )


def test_facts_are_numbers_whatever_is_unknown() -> None:
    bare = {
        "parameters": None, "layers": {}, "depth": 0, "samples": 50, "task": "other",
        "classes": None, "largest_class": None, "zero_share": 0.0, "scale_spread": None,
        "full_steps": 100, "batch_size": 5, "tags": [],
    }  # fmt: skip
    found = dict(zip(facts.NAMES, facts.numbers(bare), strict=True))
    assert all(math.isfinite(v) for v in found.values())
    assert found["log10 epochs"] == 1.0
    assert found["log10 parameters per sample"] == 0.0


def test_candidates_come_in_the_order_of_their_record() -> None:
    outlook = prior.shipped().about(EVERY[0].facts["description"])
    every = propose(outlook)
    assert every[0].role == "default"
    assert [c.prior for c in every[1:]] == sorted(c.prior for c in every[1:])
    assert {c.choice for c in every} == set(prior.CHOICES)
    few = propose(outlook, ("adagrad",), width=4)
    assert len({c.setting for c in few}) == 4
    assert [c.role for c in few][:2] == ["default", "requested"]
    # What evaluates the loss again is tried beside the race, not in it.
    assert all(c.role != "requested" for c in propose(outlook, ("sam",)))
    with pytest.raises(RequestError, match="wraps another optimizer"):
        propose(outlook, ("lookahead",))


@pytest.mark.parametrize("tier", rehearsal.TIERS)
def test_the_rule_keeps_to_its_tier(tier: str) -> None:
    known = prior.shipped()
    share = {"instant": 0.0, "quick": 0.1, "standard": 0.5, "thorough": 2.0}[tier]
    for r in SOME:
        bench = Bench(r, 0, None if tier == "instant" else tier)
        decision = rehearsal.replayed(bench, known, tier)
        assert bench.spent <= share * (1 + 1e-9)
        assert decision.candidate.choice in r.grid.places
        if tier == "thorough":
            assert decision.basis == "probe" or decision.code == "plateau_no_signal"
        expected = forecast.forecast(known.about(r.facts["description"]), decision, tier)
        low, middle, high = expected.loss_ratio
        assert 0 < low <= middle <= high
        assert 0 < expected.p_beats_default < 1


def test_plans_leave_out_what_is_too_short() -> None:
    assert [s.share for s in plan("standard", 20_000)] == [0.01, 0.04, 0.16]
    assert [s.share for s in plan("standard", 1_000)] == [0.04, 0.16]
    assert plan("quick", 1_000) == []
    assert (width("standard", 20_000), width("standard", 1_000), width("instant", 5)) == (8, 4, 2)
    stage = plan("thorough", 10_000)[-1]
    assert (stage.steps, stage.cooled_from) == grid.horizons(10_000)[0.5]


def test_what_no_task_was_trained_with_gets_even_odds() -> None:
    outlook = prior.shipped().about(EVERY[0].facts["description"])
    (requested,) = [c for c in propose(outlook, ("adamax",)) if c.role == "requested"]
    assert requested.setting == Setting("adamax", 1e-3)
    decision = forecast.Decision(requested, "probe", None, ())
    found = forecast.features(outlook, decision)
    assert (found.share, found.middle) == (0.5, 0.0)
    assert forecast.forecast(outlook, decision, "standard").time_ratio == math.inf
