"""The judge of decision rules: who learns from what, what is paid, and the figures."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import advice, pages
from benchmarks.parts import judge, rules
from benchmarks.parts.rules import Answer, Fixed, OneEpoch, Oracle, RangeTest, Rule
from recommender.knowledge import grid
from recommender.knowledge.grid import Choice
from recommender.knowledge.replay import Bench
from recommender.knowledge.table import Record, truth
from tests.recommender.records import FULL_STEPS, record

pytestmark = pytest.mark.backend_free

DEFAULT = Choice(grid.DEFAULT, "constant")
BEST = Choice(grid.SMALL.trunks[0], "late_cooldown")
RNG = np.random.default_rng(0)


def several() -> list[Record]:
    """Four tasks of three families."""
    return [
        record("a", source="one"), record("b", source="one"), record("c", source="two"),
        record("d", source="two", architecture="cnn"),
    ]  # fmt: skip


class Noting(Rule):
    """Notes from which families it learns before each answer."""

    name = "noting"

    def __init__(self) -> None:
        self.seen: list[tuple[str, set[str]]] = []

    def fit(self, records: Sequence[Record]) -> None:
        self._known = {r.family for r in records}

    def answer(self, bench: Bench, generator: np.random.Generator) -> Answer:
        self.seen.append((bench.record.family, self._known))
        return Answer(DEFAULT, 0.5, (0.5, 2.0))


def test_a_rule_never_learns_from_the_family_it_is_judged_on() -> None:
    noting = Noting()
    tasks = several()
    outcomes = judge.judged(noting, tasks, tasks)
    assert len(outcomes) == len(noting.seen) == 2 * len(tasks)
    families = {r.family for r in tasks}
    assert len(families) == 3
    assert all(known == families - {family} for family, known in noting.seen)


def test_the_default_is_the_measure_of_all_things() -> None:
    found = judge.figures(judge.judged(Fixed("default", DEFAULT), several(), []))
    assert found["tasks"] == found["gainful"] == 4
    assert found["cost"] == 0
    # Its own seeds stand 0.01 apart around its recorded trainings, so nothing differs here.
    assert found["mean_regret"] == pytest.approx([1, 1, 1], abs=1e-5)
    assert found["time_ratio"] == pytest.approx([1, 1, 1])
    assert found["within_three_quarters"] == [0, 0, 0]
    assert found["better"] == [0, 0, 0]
    assert found["harm"] == [0, 0, 0]
    assert "coverage" not in found
    # It takes half the length to its best: half is left.
    assert found["net_saving"][0] == pytest.approx(0.5)


def test_the_oracle_has_no_regret_and_pays_for_everything() -> None:
    found = judge.figures(judge.judged(Oracle(), several(), []))
    assert found["mean_regret"] == pytest.approx([0, 0, 0], abs=1e-5)
    assert found["better"] == [1, 1, 1]
    # Nine trunks with their cooldowns and six shaped ones, and a validation for each look.
    steps = (9 * 1.25 + 6) * FULL_STEPS
    assert found["cost"] == pytest.approx((steps + 24 * 5) / FULL_STEPS)


def test_stated_odds_are_held_against_what_happened() -> None:
    outcomes = judge.judged(Noting(), several(), several())
    found = judge.figures(outcomes)
    assert found["brier"][0] == pytest.approx(0.25)
    assert found["coverage"][0] == 1
    assert found["width"][0] == pytest.approx(1.5)
    assert judge.reliability(outcomes) == [{"stated": 0.5, "happened": 0.0, "n": 8}]


def test_a_profile_counts_tasks_and_never_falls() -> None:
    outcomes = judge.judged(Fixed("", BEST), several(), [])
    ratios = [0.1, 0.899, 0.95, 4.0]
    shares = judge.profile(outcomes, ratios)
    assert shares.tolist() == [0, 0, 1, 1]
    assert (np.diff(judge.profile(outcomes, ratios, stretched=True)) >= 0).all()


def test_intervals_come_from_resampled_tasks() -> None:
    tasks = [record(str(i), source=str(i)) for i in range(20)]
    half = [o for r in tasks[:10] for o in judge.judged(Fixed("", DEFAULT), [r], [])]
    half += [o for r in tasks[10:] for o in judge.judged(Fixed("", BEST), [r], [])]
    middle, low, high = judge.figures(half)["better"]
    assert middle == 0.5
    # The binomial interval of 10 in 20 is 0.27 to 0.73.
    assert 0.2 < low < 0.4
    assert 0.6 < high < 0.8


def test_a_quarter_of_settings_holds_the_best_where_short_trainings_tell_the_order() -> None:
    rows = judge.fidelity(several())
    long = [row for row in rows if row["share"] >= 0.5]
    # From half the length on every setting stands at its own level.
    assert all(row["spearman"] == pytest.approx(1) for row in long)
    assert all(row["recall"] == 1 and row["leader"] == 0 for row in long)
    assert {row["kind"] for row in rows} == {"annealed", "truncated"}


# ---------------------------------------------------------------------- rules


def test_the_test_part_is_drawn_by_family_and_stays_as_it_is() -> None:
    assert judge.is_test(record(source="x")) == judge.is_test(record("other", source="x"))
    share = np.mean([judge.is_test(record(source=str(i))) for i in range(400)])
    assert 0.2 < share < 0.4
    # Drawn once: a change here would mix the parts.
    drawn = [
        judge.is_test(record(source=name)) for name in ("digits", "wine", "caravan", "flights")
    ]
    assert drawn == FROZEN


# sha256("mlp/<source>") < 0.3 * 2^32 of the first four bytes, worked out with sha256sum.
FROZEN = [False, True, False, False]


def test_one_epoch_each_pays_for_one_epoch_each() -> None:
    bench = Bench(record(), 0)
    assert OneEpoch(1).answer(bench, RNG).choice == Choice(grid.SMALL.trunks[0], "constant")
    # Trunks serve both of their configurations; each look is a validation.
    assert bench.budget.spent == pytest.approx(15 * 100 + 24 * 5)


def test_the_range_test_takes_a_tenth_of_the_rate_at_the_lowest_loss() -> None:
    bench = Bench(record(), 0)
    # Its loss falls to the last rate, 1: a tenth of that is nearest to 0.01 of those recorded.
    assert RangeTest().answer(bench, RNG).choice.setting.learning_rate == 1e-2
    assert bench.budget.spent == len(grid.RANGE_TEST)


@pytest.mark.parametrize("search", [rules.RandomSearch, rules.Optuna])
@pytest.mark.parametrize("tier", ["quick", "standard"])
def test_searches_keep_to_what_they_may_spend_and_repeat(search: Any, tier: str) -> None:
    rule = search(tier, 6)
    found = []
    for _ in range(2):
        bench = Bench(record(), 0, tier)
        found.append(rule.answer(bench, np.random.default_rng(1)).choice)
        assert 0.5 * bench.budget.limit < bench.budget.spent <= bench.budget.limit
    assert found[0] == found[1]


def test_the_best_fixed_configuration_is_that_of_the_others() -> None:
    rule = rules.BestFixed()
    rule.fit(several())
    assert rule.answer(Bench(record(), 0), RNG).choice == BEST


def test_the_recommender_knows_nothing_of_the_family_at_hand() -> None:
    every = [r for r in truth().values() if r.grid is grid.FULL][:12]
    rule = rules.Recommender("standard")
    for family in sorted({r.family for r in every})[:2]:
        rule.fit([r for r in every if r.family != family])
        bench = Bench(next(r for r in every if r.family == family), 0, "standard")
        found = rule.answer(bench, RNG)
        assert 0 < bench.spent <= 0.5
        assert bench.record.name not in rule._prior.tasks
        assert 0 < found.p_beats_default < 1
        assert found.interval[0] < found.interval[1]


# ---------------------------------------------------------------------- the report


def test_optimizers_that_are_close_to_the_best_are_counted() -> None:
    rows = {row["method"]: row for row in advice.winners(several())}
    first = grid.SMALL.trunks[0].method
    assert rows[first]["first"] == rows[first]["near"] == rows[first]["only"] == 4
    assert rows[first]["where"] == {"mlp": 3, "cnn": 1}
    assert all(row["only"] == 0 for name, row in rows.items() if name != first)


def test_a_release_is_scored_once(tmp_path: Path) -> None:
    file = tmp_path / "history.json"
    found = {"cells": [{"rule": "default", "test": {"tasks": 3}}]}
    advice.released(found, file=file)
    entries = json.loads(file.read_text("utf-8"))
    assert entries[0]["rules"] == {"default": {"tasks": 3}}
    with pytest.raises(SystemExit, match="was scored on this table already"):
        advice.released(found, file=file)
    assert json.loads(file.read_text("utf-8")) == entries


MACHINE = {
    "processor": "A processor", "cores": "2", "memory": "8 GiB", "system": "Linux, Python 3.13.0",
    "date": "2026-01-31", "keras": "3.15.1", "jax": "0.10.2",
}  # fmt: skip


def test_the_page_shows_every_rule_with_its_intervals() -> None:
    tasks = several()
    wanted: list[Rule] = [Fixed("Keras' default", DEFAULT), Oracle()]
    cells = [advice._cell(rule, judge.judged(rule, tasks, tasks)) for rule in wanted]
    report = {
        "script": "advice", "backend": "jax", "machine": MACHINE,
        "part": "development tasks", "cells": cells, "fidelity": judge.fidelity(tasks),
        "tasks": [
            {
                "name": "a", "summary": "Made up", "architecture": "mlp", "source": "one",
                "steps": 5600, "parameters": 10, "licence": "none needed", "test": False,
                "oracle": -0.1,
            }
        ],
        "winners": advice.winners(tasks), "distances": advice.distances(tasks),
        "table": {
            "tasks": 4, "sources": 2, "families": 3, "test_tasks": 1, "trainings": 10,
            "shortest": 500, "longest": 9000, "at_least_6000": 2, "million_gradients": 1.0,
            "core_hours": 0.1, "bytes": 1e6, "architectures": {"mlp": 4},
        },
    }  # fmt: skip
    (text,) = pages.pages([report]).values()
    assert "| Keras' default | 0.00 | 1.00 (1.00 to 1.00) |" in text
    assert "4 tasks from 2 data sources" in text
    assert not math.isnan(cells[0]["mean_regret"][0])
