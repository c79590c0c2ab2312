"""The benchmarks run, their pages say what was measured, and no step has become slow."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks import learned, pages
from benchmarks.parts import goals, plan, results, sets

ROOT = Path(__file__).resolve().parent.parent
# Ours as a multiple of another side, on cut-down sets: far above what is measured, and far below
# what a step costs that goes variable by variable or copies what it need not; beside each the goal
# on the whole sets, which `make bench` compares with on a quiet machine.
BOUNDS: dict[str, dict[tuple[str, str, str], tuple[float, float | None]]] = {
    "eager": {
        ("large", "adam", "keras"): (0.7, 1.0),
        ("large", "adabelief", "ordinary"): (0.7, 0.45),
        ("small", "adam", "keras"): (0.7, 1.0),
        ("small", "adabelief", "ordinary"): (0.2, 0.07),
        ("small", "lamb", "ordinary"): (0.4, None),
    },
    "jit": {
        ("large", "adam", "keras"): (1.5, 1.0),
        ("large", "adabelief", "ordinary"): (1.5, None),
        ("small", "adam", "keras"): (1.5, 0.75),
    },
    "xla": {
        ("large", "adam", "keras"): (1.5, 1.05),
        ("small", "adam", "keras"): (1.5, 0.85),
    },
    "graph": {
        ("large", "adam", "keras"): (1.3, 0.55),
        ("large", "lion", "keras"): (1.3, 0.55),
        ("small", "adam", "keras"): (1.3, 0.55),
        ("small", "adabelief", "ordinary"): (1.3, None),
    },
}
CUT = {
    "large": [(1000, 500), (500,), (500, 500), (500, 1000), (1000,)],
    "small": sets.many_small(blocks=8),
}
TRIES = 4
free = pytest.mark.backend_free
ROUNDS = 9


@pytest.mark.parametrize(
    ("mode", "place"),
    [
        pytest.param(mode, place, id=", ".join((mode, *place)))
        for mode in plan.MODES[os.environ["KERAS_BACKEND"]]
        for place in BOUNDS[mode]
    ],
)
def test_no_step_has_become_slow(mode: str, place: tuple[str, str, str]) -> None:
    from benchmarks.parts import measure, sides
    from benchmarks.parts.methods import METHODS

    cut, rule, other = place
    bound, _ = BOUNDS[mode][place]
    made = sides.sides(rule, METHODS[rule], CUT[cut], mode, only=("ours", other))
    measure.first_calls(made, 1, lambda _: None)
    ratios = []
    for _ in range(TRIES):
        seconds = measure.rounds(made, ROUNDS, 1, lambda _: None)
        ratios.append(results.over({"seconds": seconds}, "ours", other)[1])
        if ratios[-1] <= bound:
            return
    pytest.fail(f"ours takes {min(ratios):.2f} times as long as {other}; the bound is {bound}")


@free
def test_the_goal_beside_a_bound_is_the_one_that_pages_compare_with() -> None:
    whole = {"large": "resnet50", "small": "many_small"}
    for mode, bounds in BOUNDS.items():
        for (cut, rule, other), (_, goal) in bounds.items():
            cell = {"mode": mode, "set": whole[cut], "rule": rule}
            assert goals.goal(cell, "ours", other) == goal


# --- what is measured ---

SHAPES = [(4, 3), (3,), (3, 3, 2, 3)]


@free
@pytest.mark.parametrize(
    ("name", "tensors", "millions"),
    [
        # As published: 25 557 032 parameters, of which Keras' convolutions have no bias.
        ("resnet50", 161, 25.557032),
        ("many_small", 400, 0.9),
        ("transformer", 102, 10.0),
    ],
)
def test_a_set_is_as_large_as_it_says(name: str, tensors: int, millions: float) -> None:
    assert len(sets.SETS[name]) == tensors
    tolerance = 1e-9 if name == "resnet50" else 0.05
    assert sets.size(sets.SETS[name]) / 1e6 == pytest.approx(millions, rel=tolerance)


def test_the_plan_names_every_method_and_set() -> None:
    from benchmarks.parts.methods import METHODS

    assert tuple(METHODS) == plan.RULES
    for planned in plan.PLAN.values():
        assert set(planned) == set(sets.SETS)
    assert all(METHODS[rule].ours.elementwise for rule in plan.ELEMENTWISE)


@free
def test_sets_and_rules_together_are_measured_planned_or_not() -> None:
    assert ("matrices", "soap", "xla") not in plan.chosen(["xla", "graph"], ["matrices"], None)
    both = plan.chosen(["xla"], ["matrices"], ["soap"])
    assert both == [("matrices", "soap", "xla")]


@pytest.mark.parametrize("rule", plan.RULES)
def test_the_ordinary_way_takes_the_same_steps(rule: str) -> None:
    """On an odd set of shapes, three steps with a gradient that changes."""
    import keras
    import numpy as np

    from benchmarks.parts.methods import METHODS

    rng = np.random.default_rng(0)
    starts = [rng.normal(size=shape).astype("float32") for shape in SHAPES]
    gradients = [[rng.normal(size=shape).astype("float32") for shape in SHAPES] for _ in range(3)]
    ends = []
    for optimizer in (METHODS[rule].make_ours(), METHODS[rule].make_ordinary()):
        variables = [keras.Variable(start) for start in starts]
        for given in gradients:
            optimizer.apply([keras.ops.convert_to_tensor(g) for g in given], variables)
        ends.append([keras.ops.convert_to_numpy(v) for v in variables])
    for ours, ordinary, start in zip(*ends, starts, strict=True):
        assert np.abs(ours - start).max() > 1e-4
        # Both compute in float32; the engine may fuse and reorder, three steps of it.
        np.testing.assert_allclose(ours, ordinary, rtol=2e-5, atol=2e-6)


def test_the_floor_counts_what_a_step_reads_and_writes() -> None:
    from benchmarks.parts import floor
    from benchmarks.parts.methods import METHODS

    def per_entry(rule: str) -> float:
        touched = floor.traffic(METHODS[rule].make_ours(), SHAPES)
        return touched.bytes / touched.entries

    # w and the slots twice, g once, four bytes each.
    found = [per_entry(rule) for rule in ("sgd_momentum", "adam", "adan")]
    assert found == [20.0, 28.0, 44.0]
    rows_and_columns = 4 + 3 + (3 * 2 * 3 + 3 * 2 * 3)
    touched = floor.traffic(METHODS["adafactor"].make_ours(), SHAPES)
    assert touched.slot_entries == rows_and_columns + 3


@pytest.mark.parametrize("mode", plan.MODES[os.environ["KERAS_BACKEND"]])
def test_every_side_of_a_cell_is_measured(mode: str) -> None:
    from benchmarks.parts import cells

    cell = cells.measured(SHAPES, "adabelief", mode, rounds=2)
    expected = {
        "jit": {"optax"},
        "eager": {"pytorch-optimizer", results.SCALED},
    }.get(mode, set())
    assert set(cell["seconds"]) == {"ours", "ordinary", results.FLOOR} | expected
    assert all(len(seconds) >= 2 for seconds in cell["seconds"].values())
    assert all(math.isfinite(x) and x > 0 for row in cell["seconds"].values() for x in row)
    traced = set() if mode == "eager" else {"ours", "ordinary"} | expected
    assert set(cell["first_call"]) == traced
    json.dumps(cell)


def run(script: str, *words: str) -> str:
    """What a script prints, on the backend of this process."""
    done = subprocess.run(
        [sys.executable, "-m", f"benchmarks.{script}", *words],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@free
def test_the_script_prints_a_table_and_keeps_the_figures_for_the_pages(tmp_path: Path) -> None:
    file = tmp_path / "results" / "step.json"
    words = ("--sets", "matrices", "--rules", "lion", "--rounds", "2", "--json", str(file))
    printed = run("step", *words)
    assert "Lion on matrices (38 tensors, 0.53 M parameters)" in printed
    assert "ordinary" in printed
    for cell in json.loads(file.read_text("utf-8"))["cells"]:
        assert all(len(seconds) >= 2 for seconds in cell["seconds"].values())
    run("pages", "--results", str(file.parent), "--folder", str(tmp_path))
    assert "| Lion |" in (tmp_path / "step.md").read_text("utf-8")


@pytest.mark.slow
def test_the_other_scripts_keep_their_figures(tmp_path: Path) -> None:
    fit, memory, probes = (tmp_path / f"{name}.json" for name in ("fit", "memory", "probes"))
    run("fit", "--models", "mlp", "--rounds", "2", "--json", str(fit))
    run("memory", "--rules", "adam", "--json", str(memory))
    few = ("--candidates", "2", "--others", "1")
    run("probes", "--models", "mlp", *few, "--json", str(probes))
    made = pages.pages(pages.read(tmp_path))
    assert "| build + compile + fit |" in made["probes.md"]
    assert "| Adam | ours |" in made["fit.md"]
    assert "| Adam | ours | 1.00 |" in made["memory.md"]


# --- the pages ---

MACHINE = {
    "processor": "A processor",
    "cores": "8",
    "memory": "16 GiB",
    "system": "Linux, Python 3.13.0",
    "date": "2026-01-31",
    "keras": "3.15.1",
    "torch": "2.13.0",
}


def recorded(**changes: Any) -> dict[str, Any]:
    """A cell as `benchmarks.step` keeps it."""
    return {
        "set": "resnet50",
        "rule": "adam",
        "title": "Adam",
        "mode": "eager",
        "tensors": 161,
        "parameters": 25_557_032,
        "bytes": 700_000_000,
        "floor_is_c": True,
        "seconds": {
            "ours": [0.10, 0.12, 0.14],
            "keras": [0.2, 0.3, 0.4],
            "torch fused": [0.10, 0.09, 0.10],
            "floor": [0.07, 0.07, 0.07],
        },
        "first_call": {},
        **changes,
    }


def page(script: str, *cells: dict[str, Any]) -> str:
    """The page of a report with these cells."""
    report = {"script": script, "backend": "torch", "machine": MACHINE, "cells": list(cells)}
    (text,) = pages.pages([report]).values()
    return text


@free
def test_a_page_names_the_machine_and_shows_ratios() -> None:
    text = page("step", recorded())
    assert "A processor, 8 cores of which one was used, 16 GiB of memory" in text
    assert "keras 3.15.1, torch 2.13.0; 2026-01-31." in text
    # Medians of the ratios of each round, 0.12 / 0.07 and so on; 700 MB in 70 ms.
    assert "| Adam | 1.71 | 4.29 | 1.43 | 10.0 GB/s |" in text
    assert "| Adam | keras | 0.40 (0.38 to 0.45) | ≤ 1 | met |" in text
    assert "| Adam | torch fused | 1.33 (1.17 to 1.37) | ≤ 1.25 | met within noise |" in text


@free
def test_a_page_says_where_the_floor_is_no_pass_in_c() -> None:
    assert "| 10.0 GB/s (NumPy copy) |" in page("step", recorded(floor_is_c=False))


@free
def test_a_page_compares_first_calls_and_what_clipping_adds() -> None:
    plain = recorded(mode="jit", set="many_small", first_call={"ours": [3.0], "keras": [4.0]})
    clipped = {
        **plain,
        "rule": "adamw_clipped",
        "title": "AdamW, clipped",
        "first_call": {"ours": [9.0, 7.0, 8.0], "keras": [8.0]},
    }
    text = page("step", plain, clipped)
    assert "| many_small | jit | Adam | 3.0 | 4.0 | 0.75 | ≤ 0.75 | met |" in text
    assert "| many_small | jit | AdamW, clipped | 8.0 | 8.0 | 1.00 | ≤ 0.75 | not met |" in text
    assert "| AdamW, clipped / Adam, ours |  |  | 2.67 | ≤ 2 | not met |" in text


@free
def test_a_page_compares_what_optimizers_add_to_fit() -> None:
    seconds = {
        results.PLAIN: [1.0, 1.0],
        "Adam, ours": [1.1, 1.1],
        "Adam, ordinary": [1.5, 1.5],
        "Lion, ours": [1.0, 1.0],
        "Lion, ordinary": [1.0, 1.0],
    }
    cell = {"model": "mlp", "title": "MLP", "tensors": 14, "parameters": 357_386, "steps": 9}
    text = page("fit", {**cell, "seconds": seconds})
    assert "| Adam | ours | 0.10 (0.10 to 0.10) | 0.20 | ≤ 0.35 | met |" in text
    assert "| Lion | ours | 0.00 (0.00 to 0.00) |  |  |  |" in text


@free
def test_a_page_compares_probes_with_loops() -> None:
    cell = {"model": "mlp", "title": "MLP", "parameters": 100, "candidates": 4, "steps": 256}
    seconds = {"ours": [2.0, 0.5, 0.5, 1.0], "build + compile + fit": [2.0, 9.0, 2.0]}
    text = page("probes", {**cell, "seconds": seconds})
    assert "| ours | 4.0 |  |  |  |  |" in text
    # Four times the median of three.
    assert "| build + compile + fit | 8.0 | 0.500 | 2.0 | ≤ 1 | met |" in text


@free
def test_a_page_compares_the_state_with_the_slots() -> None:
    cell = {"rule": "adam", "title": "Adam", "slots": 1000, "state": 2000, "grown": 3000}
    text = page("memory", {**cell, "side": "ours", "peak": 4000})
    assert "| Adam | ours | 2.00 | 3.00 | 4.00 | ≤ 1 | not met |" in text


@free
def test_sentences_of_a_page_stand_on_lines_of_their_own() -> None:
    for line in page("step", recorded()).splitlines():
        assert ". " not in line or line.startswith(("|", "<!--")), line


@free
@pytest.mark.parametrize(
    ("ratio", "said"), [(0.5, "met"), (1.0, "met"), (1.1, "met within noise"), (1.11, "not met")]
)
def test_ratios_within_a_tenth_of_the_bound_count_as_equal(ratio: float, said: str) -> None:
    assert goals.verdict(ratio, 1.0) == said


@free
@pytest.mark.parametrize(
    ("mode", "where", "rule", "other", "bound"),
    [
        ("jit", "many_small", "adam", "keras", 0.75),
        ("jit", "resnet50", "adam", "keras", 1.0),
        ("jit", "transformer", "lion", "optax", 1.1),
        ("xla", "many_small", "sgd_momentum", "keras", 0.85),
        ("graph", "transformer", "adam", "keras", 0.55),
        ("eager", "many_small", "adan", "ordinary", 0.07),
        ("eager", "matrices", "soap", "pytorch-optimizer", 1.0),
        ("eager", "transformer", "adam", "heavyball", None),
        ("eager", "matrices", "muon", "keras", None),
    ],
)
def test_goals_are_found(mode: str, where: str, rule: str, other: str, bound: float | None) -> None:
    assert goals.goal({"mode": mode, "set": where, "rule": rule}, "ours", other) == bound


@free
def test_the_pages_are_those_of_the_figures_beside_them() -> None:
    for name, text in pages.pages(pages.read(pages.RESULTS)).items():
        assert (pages.FOLDER / name).read_text("utf-8") == text, "run python -m benchmarks.pages"


# --- learned optimizers ---


def test_runs_of_a_learned_optimizer_are_compared_problem_by_problem() -> None:
    theirs = [2.0, 4.2, 6.6, 9.2, 12.0, 15.0]
    ours = [1.0, 2.0, 3.0, 4.0, 5.0, 30.0]
    ratio, won, p = learned.compared(ours[:5], theirs[:5])
    assert (won, p) == (5, 1 / 2**5)
    assert ratio == pytest.approx(3.0 / 6.6)
    assert learned.compared(ours, theirs)[1] == 5
    assert learned.compared(theirs[:5], [math.inf] * 5)[1] == 5


def test_the_page_on_learned_optimizers_says_what_was_measured() -> None:
    report = json.loads(learned.FIGURES.read_text("utf-8"))
    start, end = learned.MARKS
    said = learned.PAGE.read_text("utf-8").partition(start)[2].partition(end)[0]
    assert said.strip() == learned.tables(report).strip()


@pytest.mark.skipif(os.environ.get("KERAS_BACKEND") != "jax", reason="its trainings are scans")
def test_trainings_side_by_side_are_gradient_descent() -> None:
    import numpy as np

    import keras_gradopt as kg
    from benchmarks.parts.episodes import CHUNK, Runner
    from keras_gradopt.meta_training import Quadratics

    task = Quadratics(size=3, problems=2)
    losses = Runner(task, kg.SGD()).train(0.02, seed=4, steps=CHUNK)
    (w,), draw = task.start(np.random.default_rng(4))
    matrix, target = (d[0].astype("float64") for d in draw(1))
    w = w.astype("float64")
    for step in range(CHUNK):
        rest = np.einsum("kij,kj->ki", matrix, w) - target
        np.testing.assert_allclose(losses[step], (rest**2).sum(axis=1), rtol=1e-4)
        w -= 0.02 * 2 * np.einsum("kij,ki->kj", matrix, rest)


# --- trials beside the race ---


def closures_cell(**changes: Any) -> dict[str, Any]:
    """A trial as `benchmarks.closures` keeps it."""
    return {
        "task": "made_up", "method": "LBFGS", "seed": 0, "excess": -0.1, "time_ratio": 0.25,
        "oracle_cost": None, "seconds": 2.0, "stopped": "done", "converged": True,
    } | changes  # fmt: skip


@free
def test_a_page_shows_trials_and_what_their_contest_changes() -> None:
    contest = {
        "task": "made_up", "seed": 0, "tier": "standard", "test": False, "advised": True,
        "converged": True, "trial_excess": -0.2, "race_excess": 0.02, "trial_time_ratio": 0.25,
        "race_time_ratio": None,
    }  # fmt: skip
    report = {
        "script": "closures", "backend": "jax", "left_out": ["another"],
        "machine": {"processor": "some", "cores": "2", "memory": "8 GiB", "system": "Linux",
                    "keras": "3.15.1", "date": "2026-11-26"},
        "tasks": {"made_up": {"parameters": 11, "passes": 300.0, "test": False,
                              "target": 0.5, "oracle": 0.4, "oracle_excess": -0.2}},
        "cells": [closures_cell(), closures_cell(seed=1, excess=0.3, time_ratio=0.5,
                                                 stopped="its validation loss falls no more")],
        "contests": [contest, contest | {"advised": False}],
    }  # fmt: skip
    (text,) = pages.pages([report]).values()
    assert "| made_up | 11 | 300 | LBFGS | +0.100 | 0.50 | never | -0.200 | 2 |" in text
    assert "Of 1 trials that were stopped" in text
    assert "1 had ended above" in text
    assert "advised in 1 of 2 contests, on 1 tasks: excess -0.200" in text
    # Never counts as 4, and 2 % above the default is harm.
    assert "time ratio 0.25, where it came to 4.00" in text
    assert "More than 1 % above the default were 0, of the race's answers 1." in text
    assert "Not measured, though small enough: another." in text
