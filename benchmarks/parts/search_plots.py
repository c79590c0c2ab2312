"""Searches without gradients, as pictures."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.parts.panels import panels, save

Cell = dict[str, Any]
# Losses below this are drawn there: 0 has no logarithm.
LEAST = 1e-16


def draw_cma_es(cells: Sequence[Cell], libraries: Sequence[str], file: Path) -> None:
    """Median evaluations to the target against dimensions, one panel for each function."""
    titles = list(dict.fromkeys(cell["title"] for cell in cells))
    figure, axes = panels(len(titles), "dimensions", "evaluations to the target")
    for axis, title in zip(axes, titles, strict=True):
        own = [cell for cell in cells if cell["title"] == title]
        for library, marker in zip(libraries, "os^", strict=True):
            points = [
                (cell["size"], statistics.median(reached))
                for cell in own
                if (reached := [v for v in cell.get(library, ()) if v is not None])
            ]
            axis.plot(*zip(*points, strict=True), marker=marker, label=library, linewidth=1)
        axis.set_title(title, fontsize=9)
        axis.set_xscale("log")
        axis.set_yscale("log")
        ticks = [cell["size"] for cell in own]
        axis.set_xticks(ticks, [str(tick) for tick in ticks])
        axis.minorticks_off()
    axes[0].legend(fontsize=8)
    save(figure, file)


def draw_hybrids(cells: Sequence[Cell], file: Path) -> None:
    """The final losses of all seeds, one panel for each problem."""
    figure, axes = panels(len(cells), "", "final loss")
    for axis, cell in zip(axes, cells, strict=True):
        for place, runs in enumerate(cell["runs"].values()):
            losses = np.maximum([run["loss"] for run in runs], LEAST)
            spread = np.linspace(-0.2, 0.2, len(losses))
            axis.plot(place + spread, losses, "o", markersize=3)
            axis.hlines(np.median(losses), place - 0.3, place + 0.3, color="black")
        axis.set_yscale("log")
        axis.set_title(cell["title"], fontsize=8)
        names = [name.replace(", ", ",\n") for name in cell["runs"]]
        axis.set_xticks(range(len(names)), names, fontsize=7, rotation=45)
    save(figure, file)


def draw_regrets(found: dict[str, dict[str, np.ndarray]], file: Path) -> None:
    """Median regret against evaluations with quartiles, one panel for each function.

    Args:
        found: By title and method, regrets of shape (seeds, evaluations).
        file: A PNG.
    """
    figure, axes = panels(len(found), "evaluations", "simple regret")
    for axis, (title, methods) in zip(axes, found.items(), strict=True):
        for method, regrets in methods.items():
            low, middle, high = np.quantile(np.maximum(regrets, LEAST), [0.25, 0.5, 0.75], axis=0)
            steps = np.arange(1, len(middle) + 1)
            (line,) = axis.plot(steps, middle, label=method)
            axis.fill_between(steps, low, high, alpha=0.2, color=line.get_color())
        axis.set_yscale("log")
        axis.set_title(title, fontsize=9)
    axes[0].legend(fontsize=8)
    save(figure, file)
