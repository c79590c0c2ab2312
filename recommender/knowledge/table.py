"""The truth table: what every configuration came to on every task, as one file.

python -m recommender.knowledge.table PARTS      puts measured parts into the file
"""

from __future__ import annotations

import argparse
import functools
import json
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recommender.knowledge import grid
from recommender.knowledge.grid import Choice, Grid
from recommender.settings import Setting

FILE = Path(__file__).with_name("truth.npz")
# Raised when the file's layout changes.
FORMAT = 1
# Bits of a number that are kept: relative steps of 3e-5, far below what two seeds differ by.
MANTISSA = 14

Array = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Record:
    """Everything that was measured on one task.

    Losses are NaN where nothing was measured, and infinite once a training had diverged.

    Attributes:
        name: The task's.
        facts: "source", "architecture", "traits", "full_steps", "steps_per_epoch", "description",
            "rows", "validation_rows", "grid", "machine", "when", "core_seconds", "gradients".
        arrays: As `measure.measure_seed` names them, with the seeds as a first axis, and
            "default_validation" and "default_cooled_validation" (default seeds, points).
    """

    name: str
    facts: Mapping[str, Any]
    arrays: Mapping[str, Array] = field(repr=False)

    @property
    def family(self) -> str:
        """Architecture and data source."""
        return f"{self.facts['architecture']}/{self.facts['source']}"

    @property
    def full_steps(self) -> int:
        """Steps of one full training."""
        return int(self.facts["full_steps"])

    @property
    def grid(self) -> Grid:
        """The configurations."""
        return grid.GRIDS[self.facts["grid"]]

    @property
    def seeds(self) -> int:
        """How often every configuration was trained."""
        return len(self.arrays["validation"])

    @functools.cached_property
    def points(self) -> NDArray[np.int32]:
        """The steps at which curves stand."""
        return grid.points(self.full_steps)

    @property
    def validation_price(self) -> float:
        """One validation, in gradient evaluations of a step."""
        return float(self.facts["validation_price"])

    def curve(self, choice: Choice, seed: int, what: str = "validation") -> Array:
        """Losses at `points` of one training over the full length.

        Args:
            choice: The configuration.
            seed: Which of the seeds.
            what: "validation" or "training".

        Raises:
            KeyError: The task was not measured under it.
        """
        if choice not in self.grid.places:
            raise KeyError(f"{self.name} was not measured under {choice.label}")
        kind, row = self.grid.places[choice]
        if kind == "shaped":
            return self.arrays[f"shaped_{what}"][seed, row]
        constant = self.arrays[what][seed, row]
        if kind == "constant":
            return constant
        cooled = self.arrays[f"cooled_{what}"][seed, row]
        return np.where(np.isnan(cooled), constant, cooled)

    def branch(self, setting: Setting, seed: int, horizon: float) -> Array | None:
        """Validation blocks after a training of this share of the length, cooled down late."""
        row, column = self.grid.trunks.index(setting), grid.HORIZONS.index(horizon)
        blocks = self.arrays["branches"][seed, row, column]
        return None if np.isnan(blocks).any() else blocks

    @functools.cached_property
    def target(self) -> float:
        """The default's best validation loss, median over its seeds."""
        return float(np.median(self.arrays["default_validation"].min(axis=1)))

    @functools.cached_property
    def default_steps(self) -> float:
        """The step at which the default first reaches `target`, median over its seeds."""
        return float(np.median([self.first(c) for c in self.arrays["default_validation"]]))

    def first(self, curve: Array) -> float:
        """The first step at which a curve is at or below the target; infinite when never."""
        reached = np.flatnonzero(curve <= self.target)
        return float(self.points[reached[0]]) if len(reached) else float("inf")


class Table(Mapping[str, Record]):
    """The records by task name, read one by one when they are asked for.

    Args:
        path: The file.
    """

    def __init__(self, path: Path = FILE) -> None:
        self._file = np.load(path)
        meta = json.loads(bytes(self._file["meta"]))
        if meta["format"] != FORMAT or meta["version"] != grid.VERSION:
            raise ValueError(
                f"{path.name} has format {meta['format']} and grid {meta['version']}, this code "
                f"reads {FORMAT} and {grid.VERSION}. Collect it again with "
                "python -m recommender.knowledge.table."
            )
        self.meta: dict[str, Any] = meta
        self._records: dict[str, Record] = {}

    def __getitem__(self, name: str) -> Record:
        if name not in self._records:
            facts = self.meta["tasks"][name]
            arrays = {what: self._file[f"{name}/{what}"] for what in facts["arrays"]}
            self._records[name] = Record(name, facts, arrays)
        return self._records[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.meta["tasks"])

    def __len__(self) -> int:
        return len(self.meta["tasks"])


@functools.cache
def truth() -> Table:
    """The shipped table."""
    return Table()


def collect(parts: Path, target: Path = FILE) -> list[str]:
    """Write one file of all tasks whose every seed is measured.

    Tasks that the file holds already stay in it unless they were measured again.

    Args:
        parts: The folder that `measure.py` filled.
        target: The file.

    Returns:
        Names of tasks with missing parts, which are left out.
    """
    found: dict[str, dict[int, Path]] = {}
    for path in parts.glob("*.*.npz"):
        name, seed, _ = path.name.rsplit(".", 2)
        found.setdefault(name, {})[int(seed)] = path
    kept: dict[str, Array] = {}
    facts: dict[str, Any] = {}
    if target.exists():
        old = Table(target)
        for name in old:
            facts[name] = dict(old[name].facts)
            kept |= {f"{name}/{what}": values for what, values in old[name].arrays.items()}
    partial = []
    for name, seeds in found.items():
        if set(seeds) != set(range(grid.DEFAULT_SEEDS)):
            partial.append(name)
            continue
        facts[name], arrays = _merged(name, [seeds[seed] for seed in sorted(seeds)])
        kept |= {f"{name}/{what}": values for what, values in arrays.items()}
    meta = {
        "format": FORMAT,
        "version": grid.VERSION,
        "tasks": {name: facts[name] for name in sorted(facts)},
    }
    text = np.frombuffer(json.dumps(meta).encode(), np.uint8)
    whole = {key: kept[key] for key in sorted(kept)}
    with target.open("wb") as file:
        np.savez_compressed(file, meta=text, **whole)  # type: ignore[arg-type]
    return sorted(partial)


def _merged(name: str, paths: list[Path]) -> tuple[dict[str, Any], dict[str, Array]]:
    from recommender.knowledge import tasks

    parts = []
    for path in paths:
        with np.load(path) as file:
            arrays = {what: file[what] for what in file.files if what != "meta"}
            parts.append((json.loads(bytes(file["meta"])), arrays))
    metas = [meta for meta, _ in parts]
    if {meta["version"] for meta in metas} != {grid.VERSION}:
        raise ValueError(f"{name} was measured on another grid; remove its parts.")
    if any(len({meta[key] for meta in metas}) != 1 for key in ("full_steps", "grid", "data")):
        raise ValueError(f"{name} changed between its seeds; remove its parts.")
    whole = [arrays for _, arrays in parts[: grid.SEEDS]]
    found = {what: np.stack([arrays[what] for arrays in whole]) for what in whole[0]}
    for what in ("validation", "cooled_validation"):
        rows = [
            arrays[what][meta["trunks"].index(grid.plain(grid.DEFAULT))] for meta, arrays in parts
        ]
        found[f"default_{what}"] = np.stack(rows)
    task, first = tasks.find(name), metas[0]
    description = first["description"]
    facts = {
        "source": task.source,
        "architecture": task.architecture,
        "traits": list(task.traits),
        "summary": task.summary,
        **{key: first[key] for key in ("grid", "full_steps", "steps_per_epoch", "when", "machine")},
        "validation_price": first["validation_price"],
        "data": first["data"],
        "description": description,
        "gradients": round(sum(meta["gradients"] for meta in metas)),
        "core_seconds": round(sum(meta["core_seconds"] for meta in metas)),
        "arrays": sorted(found),
    }
    return facts, {what: shaved(values) for what, values in found.items()}


def shaved(values: Array, bits: int = MANTISSA) -> Array:
    """The values with so many bits of mantissa, rounded; the rest is 0 and packs well."""
    drop = 23 - bits
    raw = np.ascontiguousarray(values, np.float32).view(np.uint32)
    rounded = (raw + np.uint32(1 << (drop - 1))) & ~np.uint32((1 << drop) - 1)
    return np.where(np.isfinite(values), rounded.view(np.float32), values).astype(np.float32)


def main() -> None:
    """Collect the parts of a folder."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("parts", type=Path, help="the folder that measure.py filled")
    given = parser.parse_args()
    partial = collect(given.parts)
    table = Table()
    seconds = sum(record.facts["core_seconds"] for record in table.values())
    sources = {record.facts["source"] for record in table.values()}
    sys.stdout.write(
        f"{len(table)} tasks from {len(sources)} sources, {seconds / 3600:.1f} core hours, "
        f"{FILE.stat().st_size / 1e6:.1f} MB\n"
    )
    if partial:
        sys.stdout.write(f"left out, some seeds are missing: {', '.join(partial)}\n")


if __name__ == "__main__":
    main()
