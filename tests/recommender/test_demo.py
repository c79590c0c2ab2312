"""The demo: its figures on hand-made runs, its data, and a whole small run."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from recommender import demo, demo_tasks, recommend
from recommender.demo import Run
from recommender.statistics import first_reach, paired_difference, time_ratio


def runs(*curves: list[float]) -> list[Run]:
    return [Run(tuple(10 * (i + 1) for i in range(len(c))), tuple(c), 1.0) for c in curves]


def test_the_time_ratio_is_steps_to_the_default_s_median_best() -> None:
    # The default's bests are 1, 2, 3: the target is 2, first reached at 20, 30 and never.
    default = runs([3, 1, 1], [4, 3, 2], [5, 4, 3])
    advised = runs([2, 1, 1], [3, 1.5, 1], [9, 9, 9])
    assert demo.ratio(default, advised) == pytest.approx(20 / 30)


def test_an_advice_that_never_gets_there_has_an_infinite_ratio() -> None:
    assert math.isinf(demo.ratio(runs([2, 1]), runs([2, 1.5])))
    assert math.isinf(first_reach([1, 2], [3.0, 2.0], 1.0))
    assert math.isinf(time_ratio([([1], [1.0])], [([1], [2.0])]))


def test_paired_differences_come_with_their_error() -> None:
    found = paired_difference([1.0, 2.0, 3.0], [2.0, 2.5, 4.5])
    assert found.gap == pytest.approx(1.0)
    # Differences 1, 0.5, 1.5: deviation 0.5, standard error 0.5 / sqrt(3).
    assert found.error == pytest.approx(0.5 / math.sqrt(3))
    assert paired_difference([math.inf], [1.0]).gap == -math.inf


@pytest.mark.parametrize("name", demo_tasks.TASKS)
def test_every_task_has_real_data_and_six_thousand_steps(name: str) -> None:
    task = demo_tasks.find(name)
    x, y, x_val, y_val = task.load()
    assert len(x) == len(y) >= 300
    assert len(x_val) == len(y_val) >= 100
    assert np.isfinite(np.asarray(x, "float64")).all()
    assert math.ceil(len(y) / task.batch_size) * task.epochs >= 6000
    assert task.model(0).count_params() > 0


def test_a_task_s_model_starts_from_its_seed() -> None:
    task = demo_tasks.find("digits")
    first, again, other = (task.model(seed).get_weights()[0] for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert not np.allclose(first, other)


def test_a_short_demo_runs_from_question_to_page(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    task = dataclasses.replace(demo_tasks.find("diabetes"), epochs=4)
    monkeypatch.setitem(demo_tasks.TASKS, "diabetes", task)
    page = tmp_path / "report.html"
    console = Console(record=True, width=120)
    advice, default, advised = demo.run("diabetes", 1, page, console)
    said = console.export_text()
    assert "Full trainings, 1 seeds each" in said
    assert "The advice" in said
    assert page.read_text(encoding="utf-8").count('class="plot"') >= 2
    assert [len(r.losses) for r in (*default, *advised)] == [4, 4]
    assert advice.decision.code == "too_few_steps"


def test_a_lost_comparison_is_said_plainly() -> None:
    advice = recommend({"family": "linear"}, {"shape": [2]}, tier="instant", progress=False)
    text = demo.verdict(advice, runs([2, 1]), runs([2, 1.5]))
    assert "The advice lost" in text
    assert "50.0% above" in text
    assert "did not pay" in demo.verdict(advice, runs([2, 1, 1]), runs([2, 1.5, 0.999]))
    assert "ended 50.0% below" in demo.verdict(advice, runs([2, 1]), runs([2, 0.5]))


def test_an_interrupted_demo_keeps_what_it_has(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    task = dataclasses.replace(demo_tasks.find("diabetes"), epochs=2)
    monkeypatch.setitem(demo_tasks.TASKS, "diabetes", task)
    made = iter(runs([2, 1], [2, 0.5], [2, 1]))

    def train(*_: object) -> Run:
        try:
            return next(made)
        except StopIteration:
            raise KeyboardInterrupt from None

    monkeypatch.setattr(demo, "train", train)
    console = Console(record=True, width=120)
    with pytest.raises(KeyboardInterrupt):
        demo.run("diabetes", 3, tmp_path / "report.html", console)
    said = console.export_text()
    assert "Full trainings, 1 seeds each" in said
    assert "Interrupted after 1 pairs" in said
    assert (tmp_path / "report.html").is_file()
