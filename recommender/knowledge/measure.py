"""Trains every configuration of the grid on the tasks of the truth table, one part per seed.

    KERAS_BACKEND=jax python -m recommender.knowledge.measure [TASK ...]

Without names it takes the tasks that the shipped table lacks. Parts go to a folder; whatever is
there already is kept, so a measurement can be stopped at any time and goes on where it was. Several
processes may share the folder. `table.py` makes one file of the parts.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.metadata
import json
import os
import platform
import queue
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from recommender.budget import Budget
from recommender.description import describe
from recommender.errors import RequestError
from recommender.knowledge import grid, table, tasks
from recommender.knowledge.grid import Choice, Grid
from recommender.knowledge.processor import processor
from recommender.knowledge.tasks import MeasuredTask
from recommender.population import Population, State, open_population
from recommender.problem import Problem, build
from recommender.request import checked
from recommender.settings import Setting

PARTS = Path(".truth")
Array = NDArray[np.float32]


@dataclass
class Curves:
    """What one training showed: NaN where it was not measured, infinite once it had diverged.

    Attributes:
        validation: Mean validation loss at each of `grid.points`.
        training: Mean minibatch loss since the point before.
    """

    validation: Array
    training: Array


def measure_seed(population: Population, what: Grid) -> dict[str, Array]:
    """Everything that one seed of one task shows.

    Args:
        population: The probe engine, at the first weights of this seed.
        what: The configurations.

    Returns:
        Arrays by name: "validation" and "training" (trunks, points), "cooled_validation" and
        "cooled_training" (trunks, points), NaN before the last cooldown, "branches" (trunks,
        horizons, blocks), "shaped_validation" and "shaped_training" (shaped, points), "range_test"
        (rates,), "initial" (blocks,).
    """
    full = population.problem.full_steps
    at = grid.points(full)
    found: dict[str, list[Array]] = {}
    for setting in what.trunks:
        constant, cooled, branches = _trunk(population, setting, at)
        found.setdefault("validation", []).append(constant.validation)
        found.setdefault("training", []).append(constant.training)
        found.setdefault("cooled_validation", []).append(cooled.validation)
        found.setdefault("cooled_training", []).append(cooled.training)
        found.setdefault("branches", []).append(branches)
    for choice in what.shaped:
        curves = _shaped(population, choice, at)
        found.setdefault("shaped_validation", []).append(curves.validation)
        found.setdefault("shaped_training", []).append(curves.training)
    arrays = {name: np.stack(rows) for name, rows in found.items()}
    arrays["range_test"] = _range_test(population)
    arrays["initial"] = population.validate(population.start(grid.DEFAULT), "initial").astype(
        np.float32
    )
    return arrays


def _trunk(
    population: Population, setting: Setting, at: NDArray[np.int32]
) -> tuple[Curves, Curves, Array]:
    full = population.problem.full_steps
    lengths = grid.horizons(full)
    starts = {start: share for share, (_, start) in lengths.items()}
    constant, cooled = _empty(len(at), np.inf), _empty(len(at), np.nan)
    branches = np.full((len(grid.HORIZONS), population.blocks), np.nan, np.float32)
    for share in lengths:
        branches[grid.HORIZONS.index(share)] = np.inf
    after = at > lengths[1.0][1]
    cooled.validation[after] = cooled.training[after] = np.inf
    trunk, heard = population.trunk(setting), 0
    for stop in sorted({*at.tolist(), *starts}):
        trunk.advance(stop, "trunk")
        if trunk.diverged_at is not None:
            break
        if stop in at:
            place = int(np.searchsorted(at, stop))
            constant.validation[place] = _validated(population, trunk.state)
            constant.training[place] = np.mean(trunk.losses[heard:])
            heard = len(trunk.losses)
        if stop in starts:
            share = starts[stop]
            length = lengths[share][0]
            rates = grid.rates("late_cooldown", setting.learning_rate, length)[stop:]
            curves = cooled if share == 1.0 else None
            blocks = _run(population, trunk.state, rates, stop, at, curves)
            branches[grid.HORIZONS.index(share)] = np.inf if blocks is None else blocks
    population.forget(setting)
    return constant, cooled, branches


def _shaped(population: Population, choice: Choice, at: NDArray[np.int32]) -> Curves:
    curves = _empty(len(at), np.inf)
    rates = grid.rates(choice.shape, choice.setting.learning_rate, population.problem.full_steps)
    _run(population, population.start(choice.setting), rates, 0, at, curves)
    return curves


def _run(
    population: Population,
    state: State,
    rates: Array,
    first: int,
    at: NDArray[np.int32],
    curves: Curves | None,
) -> Array | None:
    """Train on at these rates; the blocks of the last validation, None if the loss diverged."""
    last = first + len(rates)
    stops = [stop for stop in at.tolist() if first < stop < last] if curves else []
    step, losses = first, np.zeros(0, np.float32)
    for stop in [*stops, last]:
        rows = population.problem.batch_indices(step, stop - step)
        part = rates[step - first : stop - first]
        state, losses = population.train(state, part, rows, "run")
        if not np.isfinite(losses).all():
            return None
        if curves is not None:
            place = int(np.searchsorted(at, stop))
            curves.validation[place] = _validated(population, state)
            curves.training[place] = losses.mean()
        step = stop
    return population.validate(state, "run").astype(np.float32)


def _range_test(population: Population) -> Array:
    """The loss before each step of Adam at rising rates; infinite once it had diverged."""
    rates = grid.RANGE_TEST.astype(np.float32)
    rows = population.problem.batch_indices(0, len(rates))
    _, losses = population.train(population.start(grid.DEFAULT), rates, rows, "range_test")
    found = np.full(len(rates), np.inf, np.float32)
    found[: len(losses)] = losses
    return found


def _empty(count: int, value: float) -> Curves:
    return Curves(np.full(count, value, np.float32), np.full(count, value, np.float32))


def _validated(population: Population, state: State) -> float:
    return float(population.validate(state, "validation").mean())


class Part:
    """The measurements of one task and seed: a file once they are whole."""

    def __init__(self, folder: Path, task: MeasuredTask, seed: int) -> None:
        self.path = folder / f"{task.name}.{seed}.npz"
        self._claim = folder / f"{task.name}.{seed}.claim"

    @contextmanager
    def claimed(self) -> Iterator[bool]:
        """Whether this process is to measure it: no other one does, and it is not there yet."""
        mine = not self.path.exists() and self._take()
        try:
            yield mine
        finally:
            if mine:
                self._claim.unlink()

    def _take(self) -> bool:
        try:
            handle = os.open(self._claim, os.O_CREAT | os.O_EXCL | os.O_WRONLY)
        except FileExistsError:
            if _alive(self._claim):
                return False
            self._claim.unlink(missing_ok=True)
            return self._take()
        with os.fdopen(handle, "w") as file:
            file.write(str(os.getpid()))
        return True

    def write(self, arrays: dict[str, Array], meta: dict[str, Any]) -> None:
        """The file appears whole or not at all."""
        text = np.frombuffer(json.dumps(meta).encode(), np.uint8)
        partial = self.path.with_suffix(".partial")
        with partial.open("wb") as file:
            np.savez_compressed(file, meta=text, **arrays)  # type: ignore[arg-type]
        partial.replace(self.path)


def _alive(claim: Path) -> bool:
    try:
        os.kill(int(claim.read_text() or 0), 0)
    except (FileNotFoundError, ProcessLookupError, ValueError):
        return False
    return True


def fingerprint(problem: Problem) -> str:
    """Tells data apart: some change with the version of Python or of a package."""
    digest = hashlib.sha256()
    parts = (problem.x, problem.y, problem.x_val, problem.y_val)
    for values in keras.tree.flatten(parts):
        digest.update(np.ascontiguousarray(values).tobytes())
    return digest.hexdigest()[:12]


def machine() -> dict[str, str]:
    """What measured: processor, Python and the versions that numbers depend on."""
    versions = {name: importlib.metadata.version(name) for name in ("keras", "jax", "numpy")}
    return {"python": platform.python_version(), "processor": processor(), **versions}


def measure_task(task: MeasuredTask, folder: Path) -> None:
    """Measure whatever seed of this task is not there and not claimed."""
    population: Population | None = None
    for seed in range(grid.DEFAULT_SEEDS):
        with Part(folder, task, seed).claimed() as mine:
            if not mine:
                continue
            whole = grid.SMALL if task.dear else grid.FULL
            what = whole if seed < grid.SEEDS else Grid(whole.name, (grid.DEFAULT,), ())
            began, used = time.time(), time.process_time()
            problem = build(checked(task.request(seed, "thorough")))
            if population is None:
                budget = Budget("thorough", problem.full_steps)
                budget.limit = float("inf")
                population = open_population(problem, whole.settings, budget)
            else:
                population.restart(problem)
            spent = population.budget.spent
            arrays = measure_seed(population, what)
            description = describe(problem).to_dict()
            meta = {
                "version": grid.VERSION,
                "task": task.name,
                "seed": seed,
                "grid": whole.name,
                "trunks": [grid.plain(s) for s in what.trunks],
                "full_steps": problem.full_steps,
                "steps_per_epoch": problem.steps_per_epoch,
                "validation_price": population.validation_price,
                "data": fingerprint(problem),
                "description": description,
                "gradients": population.budget.spent - spent,
                "core_seconds": time.process_time() - used,
                "when": time.strftime("%Y-%m-%d", time.gmtime(began)),
                "machine": machine(),
            }
            Part(folder, task, seed).write(arrays, meta)
            sys.stderr.write(
                f"{task.name} seed {seed}: {meta['core_seconds']:.0f} s on a core, best of the "
                f"default {arrays['validation'][what.trunks.index(grid.DEFAULT)].min():.4g}\n"
            )


def main() -> None:
    """Measure the named tasks, or those that the table lacks, one process to a core."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("names", nargs="*", help="tasks; if none is named, those not in the table")
    parser.add_argument("--parts", type=Path, default=PARTS, help="where parts go")
    parser.add_argument("--cores", type=int, nargs="+", help="the cores to use; all if not given")
    parser.add_argument("--core", type=int, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if keras.config.backend() != "jax":
        parser.error("the table is measured on JAX: set KERAS_BACKEND=jax.")
    try:
        wanted = asked_for(given.names)
    except RequestError as error:
        parser.error(str(error))
    given.parts.mkdir(parents=True, exist_ok=True)
    if given.core is not None:
        os.sched_setaffinity(0, {given.core})
        for task in wanted:
            measure_task(task, given.parts)
        return
    if not wanted:
        sys.stderr.write("The table holds every task. Name those to measure again.\n")
    able, missing = tasks.loadable(wanted)
    failed = _on_cores([t.name for t in able], given.parts, given.cores)
    for name, reason in missing.items():
        sys.stderr.write(f"{name} is left out: {reason}\n")
    for name, code in failed.items():
        sys.stderr.write(f"{name} failed: its process ended with {code}. Run it again to go on.\n")
    sys.exit(bool(failed))


def asked_for(names: Sequence[str]) -> list[MeasuredTask]:
    """The named tasks, or those that the shipped table lacks."""
    known = set(table.Table()) if table.FILE.exists() else set()
    return [tasks.find(name) for name in names] or [
        task for name, task in tasks.all_tasks().items() if name not in known
    ]


def _on_cores(names: Sequence[str], parts: Path, cores: Sequence[int] | None) -> dict[str, int]:
    """Every task in a process of its own, one at a time on each core; gives those that failed.

    A process of its own, because compiled programs are never let go of, and because one that runs
    out of memory should take no other task with it.
    """
    free: queue.Queue[int] = queue.Queue()
    for core in cores or sorted(os.sched_getaffinity(0)):
        free.put(core)
    alone = {
        "OMP_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
        "XLA_FLAGS": "--xla_cpu_multi_thread_eigen=false",
    }

    def run(name: str) -> int:
        core = free.get()
        words = [sys.executable, "-m", "recommender.knowledge.measure", name]
        words += ["--parts", str(parts), "--core", str(core)]
        try:
            return subprocess.run(words, env=os.environ | alone, check=False).returncode  # noqa: S603
        finally:
            free.put(core)

    with ThreadPoolExecutor(free.qsize()) as pool:
        try:
            codes = dict(zip(names, pool.map(run, names), strict=True))
        except KeyboardInterrupt:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return {name: code for name, code in codes.items() if code}


if __name__ == "__main__":
    main()
