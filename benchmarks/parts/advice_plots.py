"""Ways of choosing, as pictures: performance profiles and calibration."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.parts.panels import panels, save

Cell = dict[str, Any]


def draw_profiles(cells: Sequence[Cell], ratios: Sequence[float], file: Path) -> None:
    """Share of tasks on which the default's best loss is reached within a time ratio.

    Args:
        cells: One for each rule.
        ratios: Where their profiles stand.
        file: A PNG.
    """
    figure, (fixed, probing) = panels(2, "time ratio", "share of tasks", width=5.5, height=5.6)
    for cell in cells:
        free = cell["highest_cost"] == 0 or cell["rule"] == "oracle"
        dashed = cell["rule"] == "oracle"
        ours = cell["rule"].startswith("recommender")
        for axis in (fixed, probing) if dashed else (fixed if free else probing,):
            axis.step(
                ratios, cell["profile"], where="post", label=cell["rule"],
                linestyle="--" if dashed else "-", color="black" if dashed else None,
                linewidth=2.4 if ours else 1.2,
            )  # fmt: skip
    for axis, title in ((fixed, "nothing trained to choose"), (probing, "after probes")):
        axis.set_xscale("log")
        ticks = (0.1, 0.25, 0.5, 0.75, 1, 2, 4)
        axis.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
        axis.minorticks_off()
        axis.set_ylim(0, 1)
        axis.set_title(title, fontsize=10)
        axis.legend(fontsize=7, loc="upper center", bbox_to_anchor=(0.5, -0.14), ncols=2)
    save(figure, file)


def draw_calibration(cells: Sequence[Cell], file: Path) -> None:
    """Stated chances of beating the default against what happened."""
    figure, (axis,) = panels(1, "stated chance", "share that beat the default", width=4.5, height=4)
    axis.plot([0, 1], [0, 1], color="black", linewidth=0.8, linestyle="--")
    for cell in cells:
        bins = cell.get("reliability")
        if bins:
            stated, happened = ([b[name] for b in bins] for name in ("stated", "happened"))
            axis.plot(stated, happened, marker="o", label=cell["rule"], linewidth=1)
    axis.set_xlim(0, 1)
    axis.set_ylim(0, 1)
    axis.legend(fontsize=7)
    save(figure, file)
