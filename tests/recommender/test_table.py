"""The truth table: its grid, the measurement, the file, and what a replay costs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from recommender.budget import Budget
from recommender.errors import BudgetExhausted
from recommender.knowledge import grid, measure, table, tasks
from recommender.knowledge.grid import Choice, Grid
from recommender.knowledge.replay import Bench
from recommender.knowledge.score import oracle, oracle_loss, score, worthwhile
from recommender.knowledge.tasks import MeasuredTask
from recommender.population import open_population
from recommender.settings import Setting
from tests.recommender.problems import data, model, problem
from tests.recommender.records import FULL_STEPS, record

FEW = Grid(
    "small",
    (grid.DEFAULT, Setting("sgd", 0.05, grid.NESTEROV), Setting("sgd", 1e6)),
    (Choice(grid.DEFAULT, "cosine"), Choice(Setting("sgd", 0.05, grid.NESTEROV), "late_cooldown")),
)


def made_task(epochs: int = 13) -> MeasuredTask:
    """A regression of 169 steps; the last rows are for validation."""
    x, y = data()
    return MeasuredTask(
        name="made", summary="", load=lambda: (x, y, x[:64], y[:64]), build=model,
        loss=lambda: "mse", batch_size=32, epochs=epochs, source="made up", architecture="mlp",
        licence="none needed",
    )  # fmt: skip


@pytest.mark.backend_free
def test_the_grid_has_48_configurations_and_24_where_steps_are_dear() -> None:
    for one, count in ((grid.FULL, 48), (grid.SMALL, 24)):
        assert len(set(one.choices)) == len(one.choices) == count
        assert Choice(grid.DEFAULT, "constant") in one.choices
        assert {c.shape for c in one.choices} == set(grid.SHAPES)
        assert {"weight_decay"} <= {key for s in one.settings for key, _ in s.config}


def test_rates_are_those_of_the_schedules() -> None:
    # 20 steps: one of warmup, five of cooldown. By hand.
    assert grid.rates("constant", 2.0, 20).tolist() == [2.0] * 20
    late = grid.rates("late_cooldown", 2.0, 20)
    np.testing.assert_allclose(late, [2.0] * 16 + [1.6, 1.2, 0.8, 0.4], rtol=1e-6)
    np.testing.assert_allclose(grid.rates("linear", 2.0, 20), 2 - np.arange(20) / 10, rtol=1e-6)
    cosine = 1 + np.cos(np.pi * np.arange(20) / 20)
    np.testing.assert_allclose(grid.rates("cosine", 2.0, 20), cosine, atol=1e-6)
    warm = [0.0, *(1 + np.cos(np.pi * np.arange(19) / 19))]
    np.testing.assert_allclose(grid.rates("warmup_cosine", 2.0, 20), warm, atol=1e-6)


@pytest.mark.backend_free
@pytest.mark.parametrize("full", [500, 6160, 20_000])
def test_curves_end_with_the_training_and_no_cooldown_is_too_short(full: int) -> None:
    at = grid.points(full)
    assert at[-1] == full
    assert (np.diff(at) > 0).all()
    for share, (length, start) in grid.horizons(full).items():
        assert length == round(share * full) >= grid.LEAST_STEPS
        assert start == length - round(length / 4)
    assert 1.0 in grid.horizons(full)


def test_a_trunk_with_its_cooldown_is_the_training_with_that_schedule() -> None:
    # The same schedule as a branch of the trunk and as a run of its own: the same numbers.
    asked = problem(epochs=13)
    budget = Budget("thorough", asked.full_steps)
    budget.limit = float("inf")
    population = open_population(asked, FEW.settings, budget)
    found = measure.measure_seed(population, FEW)
    at = grid.points(asked.full_steps)
    after = at > grid.horizons(asked.full_steps)[1.0][1]
    whole = found["shaped_validation"][1]
    np.testing.assert_allclose(found["cooled_validation"][1][after], whole[after], rtol=1e-5)
    np.testing.assert_allclose(found["validation"][1][~after], whole[~after], rtol=1e-5)
    assert np.isnan(found["cooled_validation"][1][~after]).all()
    last = found["branches"][1, grid.HORIZONS.index(1.0)]
    assert last.mean() == pytest.approx(whole[-1], rel=1e-5)
    # 169 steps: 1 to 8 % are below the shortest training that is recorded.
    assert np.isnan(found["branches"][1, :4]).all()
    assert np.isfinite(found["branches"][1, 4:]).all()
    # What diverges is recorded as infinite, not as missing.
    assert np.isinf(found["validation"][2][-1])
    assert np.isinf(found["branches"][2, 4:]).all()
    assert np.isinf(found["cooled_validation"][2][after]).all()
    assert len(found["range_test"]) == len(grid.RANGE_TEST)
    assert found["range_test"][0] == pytest.approx(found["training"][0][0], rel=0.5)


def test_another_seed_starts_elsewhere_and_compiles_nothing() -> None:
    x, y = data(seed=1)
    first, second = (problem(seed=seed, validation_data=(x, y)) for seed in (0, 1))
    for variable in second.model.trainable_variables:
        variable.assign(variable + 0.1)
    settings = [grid.DEFAULT, Setting("prodigy", 1.0)]
    budget = Budget("thorough", first.full_steps)
    population = open_population(first, settings, budget)
    for setting in settings:
        population.trunk(setting).advance(5, "test")
    compiled = budget.compile_seconds
    population.restart(second)
    fresh = open_population(second, settings, Budget("thorough", second.full_steps))
    for setting in settings:
        assert population.trunk(setting).step == 0
        population.trunk(setting).advance(5, "test")
        fresh.trunk(setting).advance(5, "test")
        again, alone = population.trunk(setting).losses, fresh.trunk(setting).losses
        np.testing.assert_allclose(again, alone, rtol=1e-5)
    assert budget.compile_seconds == compiled


def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """One trunk, one shape, no second seed of the default."""
    few = Grid("full", (grid.DEFAULT,), (Choice(grid.DEFAULT, "cosine"),))
    monkeypatch.setattr(grid, "FULL", few)
    monkeypatch.setitem(grid.GRIDS, "full", few)
    monkeypatch.setattr(grid, "DEFAULT_SEEDS", 3)


def test_a_measurement_goes_on_where_it_was_and_becomes_one_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small(monkeypatch)
    task, target = made_task(), tmp_path / "truth.npz"
    monkeypatch.setattr(tasks, "find", lambda name: task)
    done: list[int] = []
    whole = measure.measure_seed

    def interrupted(population: object, what: Grid) -> dict:
        if len(done) == 1:
            raise KeyboardInterrupt
        done.append(1)
        return whole(population, what)

    monkeypatch.setattr(measure, "measure_seed", interrupted)
    with pytest.raises(KeyboardInterrupt):
        measure.measure_task(task, tmp_path)
    assert [p.name for p in sorted(tmp_path.iterdir())] == ["made.0.npz"]
    kept = (tmp_path / "made.0.npz").read_bytes()
    assert table.collect(tmp_path, target) == ["made"]
    assert len(table.Table(target)) == 0

    monkeypatch.setattr(measure, "measure_seed", whole)
    measure.measure_task(task, tmp_path)
    assert (tmp_path / "made.0.npz").read_bytes() == kept
    assert table.collect(tmp_path, target) == []
    found = table.Table(target)["made"]
    assert found.facts["full_steps"] == 169
    assert found.family == "mlp/made up"
    assert found.arrays["validation"].shape == (2, 1, len(found.points))
    assert found.arrays["default_validation"].shape == (3, len(found.points))
    with np.load(tmp_path / "made.1.npz") as part:
        curve = found.curve(Choice(grid.DEFAULT, "constant"), 1)
        np.testing.assert_allclose(curve, part["validation"][0], rtol=2**-14)
    # Collected once more from an empty folder, what the file holds stays.
    (tmp_path / "none").mkdir()
    table.collect(tmp_path / "none", target)
    assert list(table.Table(target)) == ["made"]


@pytest.mark.backend_free
def test_without_names_the_tasks_that_the_table_lacks_are_measured() -> None:
    lacking = set(tasks.all_tasks()) - set(table.truth())
    assert {task.name for task in measure.asked_for([])} == lacking
    assert [task.name for task in measure.asked_for(["wine_mlp"])] == ["wine_mlp"]


def test_a_part_belongs_to_one_process_and_a_dead_one_loses_it(tmp_path: Path) -> None:
    part = measure.Part(tmp_path, made_task(), 0)
    with part.claimed() as mine:
        assert mine
        with measure.Part(tmp_path, made_task(), 0).claimed() as second:
            assert not second
    gone = subprocess.run(
        [sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, check=True
    ).stdout
    (tmp_path / "made.0.claim").write_bytes(gone)
    with part.claimed() as mine:
        assert mine
    assert not list(tmp_path.iterdir())


def test_a_table_of_another_version_says_what_to_do(tmp_path: Path) -> None:
    meta = np.frombuffer(json.dumps({"format": 1, "version": 0, "tasks": {}}).encode(), np.uint8)
    np.savez(tmp_path / "old.npz", meta=meta)
    with pytest.raises(ValueError, match=r"grid 0, this code reads.*Collect it again"):
        table.Table(tmp_path / "old.npz")


@pytest.mark.backend_free
def test_numbers_are_kept_to_the_stated_precision() -> None:
    values = np.random.default_rng(0).lognormal(0, 5, 1000).astype(np.float32)
    kept = table.shaved(np.concatenate([values, [np.nan, np.inf]]).astype(np.float32))
    assert np.abs(kept[:-2] / values - 1).max() <= 2.0 ** -(table.MANTISSA + 1)
    assert np.isnan(kept[-2])
    assert np.isinf(kept[-1])


# ---------------------------------------------------------------------- the shipped table


@pytest.mark.backend_free
def test_the_table_is_as_large_as_it_has_to_be() -> None:
    shipped = table.truth()
    records = list(shipped.values())
    assert len(records) >= 60
    assert len({r.facts["source"] for r in records}) >= 30
    assert sum(r.full_steps >= 6000 for r in records) >= 25
    assert all(500 <= r.full_steps <= 20_000 for r in records)
    assert table.FILE.stat().st_size < 6e6
    known = tasks.all_tasks()
    for r in records:
        assert (known[r.name].source, known[r.name].architecture) == (
            r.facts["source"], r.facts["architecture"],
        )  # fmt: skip
        assert r.grid is (grid.SMALL if known[r.name].dear else grid.FULL)
        assert r.seeds == grid.SEEDS
        assert np.isfinite(r.target)
        assert np.isfinite(r.default_steps)


@pytest.mark.backend_free
def test_a_decision_is_replayed_in_milliseconds() -> None:
    import time

    r = next(iter(table.truth().values()))
    score(r, Choice(grid.DEFAULT, "late_cooldown"), [1])  # reads the file
    began = time.process_time()
    for _ in range(20):
        score(r, Choice(grid.DEFAULT, "late_cooldown"), [1])
    assert (time.process_time() - began) / 20 < 0.02


# ---------------------------------------------------------------------- scores, by hand


@pytest.mark.backend_free
def test_scores_are_those_worked_out_by_hand() -> None:
    r = record()
    # Trunks 0.. end at 1.0, 1.1 (the default), 1.2, ...; a late cooldown takes 0.05 off.
    assert grid.SMALL.trunks[1] == grid.DEFAULT
    assert r.target == pytest.approx(1.1)
    assert r.default_steps == FULL_STEPS / 2
    assert oracle(r, 0) == Choice(grid.SMALL.trunks[0], "late_cooldown")
    assert oracle_loss(r) == pytest.approx(0.95)
    assert worthwhile(r)  # 0.15 to gain, noise 0.016
    # The first trunk passes 1.1 at nine tenths of its fall; a training of a quarter is too short.
    first = score(r, Choice(grid.SMALL.trunks[0], "constant"), [0, 1])
    assert first.loss == pytest.approx(1.0)
    assert first.excess == pytest.approx(-1 / 11)
    assert first.regret == pytest.approx(0.05 / 0.15, rel=1e-5)
    reached = 100 * np.ceil(0.9 * FULL_STEPS / 200)
    assert first.time_ratio == pytest.approx(reached / (FULL_STEPS / 2))
    assert first.stretched_ratio == first.time_ratio
    # Cooled down, a training of half the length ends at 0.95, one of 35 % at 1.25.
    cooled = score(r, Choice(grid.SMALL.trunks[0], "late_cooldown"), [0])
    assert cooled.regret == pytest.approx(0.0, abs=1e-6)
    assert cooled.time_ratio == first.time_ratio
    assert cooled.stretched_ratio == min(first.time_ratio, 1.0)
    # The third trunk never gets there; cut off at the edge of the range of regrets.
    third = score(r, Choice(grid.SMALL.trunks[3], "constant"), [1])
    assert third.time_ratio == np.inf
    assert third.regret == pytest.approx((1.3 - 0.95) / 0.15, rel=1e-5)


@pytest.mark.backend_free
def test_a_loss_is_compared_with_the_default_from_the_same_first_weights() -> None:
    r = record()
    lucky = dict(r.arrays)
    # On the second seed everything ends 0.2 lower, the default too; its median stays at 1.1.
    for key in ("validation", "cooled_validation", "shaped_validation"):
        lucky[key] = r.arrays[key] - np.array([0, 0.2], np.float32).reshape(-1, 1, 1)
    found = score(
        table.Record("lucky", r.facts, lucky), Choice(grid.SMALL.trunks[2], "constant"), [1]
    )
    assert found.loss == pytest.approx(1.0)
    assert found.excess == pytest.approx(0.1 / 1.1, rel=1e-5)


@pytest.mark.backend_free
def test_losses_of_either_sign_compare() -> None:
    r = record()
    lowered = {key: values - 1.1 for key, values in r.arrays.items()}
    moved = table.Record("moved", r.facts, lowered)
    # The default ends at 0: differences are relative to a twentieth of its gain, 0.9.
    found = score(moved, Choice(grid.SMALL.trunks[0], "constant"), [0])
    assert found.excess == pytest.approx(-0.1 / 0.045, rel=1e-4)
    assert found.regret == score(r, Choice(grid.SMALL.trunks[0], "constant"), [0]).regret


@pytest.mark.backend_free
def test_a_task_without_gain_has_no_regret() -> None:
    r = record()
    noisy = dict(r.arrays)
    noisy["default_validation"] = r.arrays["default_validation"] + np.float32(0.1) * np.arange(
        -2, 3, dtype=np.float32
    ).reshape(-1, 1)
    found = score(table.Record("noisy", r.facts, noisy), Choice(grid.DEFAULT, "constant"), [0])
    assert np.isnan(found.regret)


@pytest.mark.backend_free
def test_a_replay_pays_for_what_it_sees_once() -> None:
    bench = Bench(record(), 0, "thorough")
    setting = grid.SMALL.trunks[0]
    blocks = bench.branch(setting, 0.04)  # 224 steps, of them 56 cooled, and a validation
    assert bench.budget.spent == pytest.approx(224 + 5)
    assert bench.branch_price(setting, 0.04) == 0
    np.testing.assert_array_equal(bench.branch(setting, 0.04), blocks)
    assert bench.budget.spent == pytest.approx(224 + 5)
    # The trunk goes on from step 168.
    curve = bench.curve(Choice(setting, "constant"), 0.5)
    assert bench.budget.spent == pytest.approx(2800 + 56 + 2 * 5)
    assert len(curve) == (bench.record.points <= 2800).sum()
    # Its cooldown shares the trunk up to three quarters.
    bench.curve(Choice(setting, "late_cooldown"), 1.0)
    assert bench.budget.spent == pytest.approx(5600 + 56 + 3 * 5)
    bench.curve(grid.SMALL.shaped[0], 0.5)
    assert bench.budget.spent == pytest.approx(5600 + 2800 + 56 + 4 * 5)
    assert bench.spent == pytest.approx(bench.budget.spent / FULL_STEPS)
    with pytest.raises(BudgetExhausted):
        bench.curve(grid.SMALL.shaped[1], 1.0)
    assert bench.spent < 2


def test_the_file_names_no_path_and_no_user() -> None:
    text = json.dumps(table.truth().meta)
    assert str(Path.home()) not in text
    assert os.sep + "tmp" not in text
