"""Curves of loss against what it cost, as pictures."""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure


def draw(cell: dict[str, Any], baseline: str, file: Path) -> None:
    """Loss against gradient evaluations, and against seconds, of all methods on one problem.

    Args:
        cell: A problem's curves and seconds per step.
        baseline: The method that is drawn in black.
        file: A PNG.
    """
    figure = Figure(figsize=(9, 3.8), dpi=90)
    canvas = FigureCanvasAgg(figure)
    axes = figure.subplots(1, 2, sharey=True)
    lowest = min(min(curve["losses"]) for curve in cell["curves"].values())
    for name, curve in cell["curves"].items():
        # A distance to the lowest loss shows how fast the last digits come.
        gap = np.maximum(np.array(curve["losses"]) - lowest, 0.0)
        gap[~np.isfinite(gap)] = np.nan
        costs = (curve["evaluations"], np.array(curve["steps"]) * _step(cell, name))
        style = {"color": "black", "linewidth": 2.0} if name == baseline else {"linewidth": 1.2}
        for axis, cost in zip(axes, costs, strict=True):
            axis.plot(cost, gap, label=name, **style)
    for axis, label in zip(axes, ("gradient evaluations", "CPU seconds"), strict=True):
        axis.set_yscale("log")
        axis.set_xlabel(label)
        axis.grid(visible=True, alpha=0.3)
    axes[0].set_ylabel("loss - lowest loss of all")
    # As long as five trainings of Adam: the slowest method would press the others to the left.
    axes[1].set_xlim(0, 5 * cell["curves"][baseline]["steps"][-1] * _step(cell, baseline))
    axes[0].legend(fontsize=8)
    figure.suptitle(cell["title"], fontsize=10)
    figure.tight_layout()
    canvas.draw()
    figure.savefig(file, metadata={"Software": None})


def _step(cell: dict[str, Any], name: str) -> float:
    return statistics.median(cell["seconds"][name])
