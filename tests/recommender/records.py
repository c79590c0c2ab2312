"""A truth table small enough to be worked out by hand."""

from __future__ import annotations

from typing import Any

import numpy as np

from recommender.knowledge import grid
from recommender.knowledge.table import Record

FULL_STEPS = 5600  # so that curves stand at every hundredth step
BLOCKS = 2


def record(name: str = "made", **changes: Any) -> Record:
    """A task on the small grid: every loss is 2 at first and `level` at the end.

    Level and speed follow from the place in the grid, so they are known: configuration `i` falls
    from 2 to `1 + 0.1 i` over the first half, linearly, and stays; the default's five seeds end
    0.01 apart around its level.
    """
    facts: dict[str, Any] = {
        "source": "made up",
        "architecture": "mlp",
        "traits": [],
        "grid": "small",
        "full_steps": FULL_STEPS,
        "steps_per_epoch": 100,
        "validation_price": 5.0,
        "core_seconds": 1,
        "gradients": 1,
        "description": {"tags": []},
    } | changes
    what, at = grid.SMALL, grid.points(facts["full_steps"])
    full = facts["full_steps"]

    def falling(level: float) -> np.ndarray:
        return np.maximum(level, 2 - (2 - level) * at / (full / 2)).astype(np.float32)

    trunks = np.stack([falling(1 + 0.1 * i) for i in range(len(what.trunks))])
    cooled = np.where(at > grid.horizons(full)[1.0][1], trunks - 0.05, np.nan)
    branches = np.full((len(what.trunks), len(grid.HORIZONS), BLOCKS), np.nan, np.float32)
    for share, (length, _) in grid.horizons(full).items():
        for i in range(len(what.trunks)):
            level = np.interp(length, at, trunks[i]) - 0.05
            branches[i, grid.HORIZONS.index(share)] = level + np.array([0.02, -0.02])
    shaped = np.stack([falling(1.5 + 0.1 * i) for i in range(len(what.shaped))])
    place = what.trunks.index(grid.DEFAULT)
    default = np.stack([trunks[place] + 0.01 * (k - 2) for k in range(grid.DEFAULT_SEEDS)])
    arrays = {
        "validation": trunks, "training": trunks, "cooled_validation": cooled,
        "cooled_training": cooled, "branches": branches, "shaped_validation": shaped,
        "shaped_training": shaped, "range_test": np.linspace(2, 1, len(grid.RANGE_TEST)),
        "initial": np.full(BLOCKS, 2.0),
    }  # fmt: skip
    arrays = {key: np.stack([v, v]).astype(np.float32) for key, v in arrays.items()}
    arrays["default_validation"] = default.astype(np.float32)
    arrays["default_cooled_validation"] = np.stack([cooled[place]] * 5).astype(np.float32)
    facts["arrays"] = sorted(arrays)
    return Record(name, facts, arrays)
