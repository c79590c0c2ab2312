"""Panels side by side in one picture."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure


def panels(
    count: int, across: str, up: str, *, width: float = 3.1, height: float = 3.4
) -> tuple[Figure, Sequence[Any]]:
    """A figure with so many axes in a row; sizes in inches of one panel."""
    figure = Figure(figsize=(width * count, height), dpi=90)
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, count, squeeze=False)[0]
    for axis in axes:
        axis.set_xlabel(across)
        axis.grid(visible=True, alpha=0.3)
    axes[0].set_ylabel(up)
    return figure, axes


def save(figure: Figure, file: Path) -> None:
    """Writes a PNG that does not name the program that made it."""
    figure.tight_layout()
    figure.savefig(file, metadata={"Software": None})
