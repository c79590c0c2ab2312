"""The advised learning rate as a drawing for the page, where no script need run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from recommender.curve import curve

# Of the plot inside its labels, in the drawing's own units.
WIDTH, HEIGHT = 300, 90
POINTS = 121


def drawing(recommended: Mapping[str, Any]) -> dict[str, Any]:
    """The line of the advised rate, from the answer's field `recommended`.

    Args:
        recommended: Its `optimizer`, `learning_rate` and `total_steps` are read.

    Returns:
        `line`, what the `points` of an SVG polyline of `WIDTH` by `HEIGHT` take; `peak`, the rate
        at its top; `width` and `height`; `steps`, which the width stands for.
    """
    schedule = recommended["optimizer"]["config"].get("learning_rate")
    steps = recommended["total_steps"]
    points = curve(recommended["learning_rate"] if schedule is None else schedule, steps, POINTS)
    peak = max(rate for _, rate in points)
    line = " ".join(
        f"{WIDTH * step / max(steps - 1, 1):.1f},{HEIGHT * (1 - rate / (peak or 1)):.1f}"
        for step, rate in points
    )
    return {"line": line, "peak": peak, "width": WIDTH, "height": HEIGHT, "steps": steps}
