"""The tasks of the truth table: data, models, and what is said when data are missing."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from recommender.budget import Budget
from recommender.knowledge import grid, tasks
from recommender.knowledge.tasks import MeasuredTask
from recommender.population import open_population
from recommender.problem import build
from recommender.request import checked


def test_missing_data_names_its_package_and_the_task_is_left_out_by_name(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from recommender.knowledge.tasks import reading

    monkeypatch.setattr(reading.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(tasks.DataMissing, match=r"package 'river' is not installed.*pip install"):
        reading.package_file("river", "datasets", "segment.csv.zip")
    with_package = [t for t in tasks.all_tasks().values() if t.packages]
    able, missing = tasks.loadable(with_package[:3])
    assert not able
    assert set(missing) == {t.name for t in with_package[:3]}
    assert {e.package for e in missing.values()} <= {p for t in with_package for p in t.packages}


def test_an_unknown_task_is_answered_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match=r"task must be one of .*received 'nothing'"):
        tasks.find("nothing")


@pytest.mark.backend_free
def test_packages_with_data_are_pinned_and_no_others() -> None:
    lines = Path("constraints/tasks.txt").read_text("utf-8").splitlines()
    pinned = {line.partition("==")[0] for line in lines if "==" in line}
    used = {p for t in tasks.all_tasks().values() for p in t.packages} - {"scikit-learn"}
    assert pinned == used


def _one_for_each_architecture() -> list[str]:
    able, _ = tasks.loadable(tasks.all_tasks().values())
    return list({task.architecture: task.name for task in reversed(able)}.values())


@pytest.mark.parametrize("name", _one_for_each_architecture())
def test_a_task_of_each_kind_trains(name: str) -> None:
    _trains(name)


@pytest.mark.slow
@pytest.mark.parametrize("name", list(tasks.all_tasks()))
def test_every_task_trains(name: str) -> None:
    try:
        _trains(name)
    except tasks.DataMissing as error:
        pytest.skip(str(error))


def _trains(name: str) -> None:
    """Data are in order, and some steps of the default leave a finite loss."""
    task = tasks.find(name)
    x, y, x_val, y_val = task.load()
    assert len(x) == len(y) >= task.batch_size
    assert len(x_val) == len(y_val)
    for values in (x, y, x_val, y_val):
        assert values.dtype in (np.float32, np.int32)
        assert np.isfinite(values).all()
    again = task.load()
    np.testing.assert_array_equal(again[0], x)
    asked = build(checked(task.request()))
    assert 500 <= asked.full_steps <= 20_000
    population = open_population(asked, [grid.DEFAULT], Budget("thorough", asked.full_steps))
    before = population.validate(population.start(grid.DEFAULT), "test").mean()
    trunk = population.trunk(grid.DEFAULT)
    trunk.advance(3, "test")
    assert np.isfinite([before, *trunk.losses]).all()
    assert population.validate(trunk.state, "test").mean() != before


def test_weights_follow_from_the_seed_alone() -> None:
    task = first_of_all()
    first, again, other = task.model(3), task.model(3), task.model(4)
    for a, b in zip(first.get_weights(), again.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
    pairs = zip(first.get_weights(), other.get_weights(), strict=True)
    assert any(not np.array_equal(a, b) for a, b in pairs)


def first_of_all() -> MeasuredTask:
    """A task that every machine can load."""
    return next(t for t in tasks.all_tasks().values() if not t.packages)
