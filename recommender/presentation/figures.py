"""The plots of a report, as plotly figures whose colours the page chooses.

Traces that belong to a candidate carry `meta={"series": n}`; the page paints them in its own
palette, light or dark.
"""

from __future__ import annotations

import html
import math
from collections.abc import Iterable
from functools import singledispatch

import numpy as np
import plotly.graph_objects as go

from recommender.presentation.curves import smoothed
from recommender.presentation.document import Curves, Interval, Plot, Rates
from recommender.probes import ProbeResult

# Positive losses, and lengths, of a wider range than this are shown on a logarithmic scale.
WIDE = 3.0
# Names beyond this length are cut in the legend.
LONGEST_NAME = 40
# Multiples of the default's loss beyond this leave the plot of the interval.
LARGEST_RATIO = 3.0
COLOURS = (
    "#6b6b6b", "#0a7d5a", "#c0491a", "#4062bb", "#9a3fb5", "#8f6a00", "#17201c", "#b03060",
)  # fmt: skip


@singledispatch
def figure(plot: Plot) -> go.Figure:
    """A plot of a document as a figure."""
    raise TypeError(f"{type(plot).__name__} is no plot.")


@singledispatch
def described(plot: Plot) -> tuple[str, str]:
    """What a plot shows, for those who do not see it, and how to read it."""
    raise TypeError(f"{type(plot).__name__} is no plot.")


@described.register
def _(plot: Interval) -> tuple[str, str]:
    label = (
        f"80% interval of the best validation loss: {plot.low:.2f} to {plot.high:.2f} times the "
        f"default's, {plot.middle:.2f} in the middle"
    )
    caption = (
        "The bar holds 8 of 10 cases, the diamond is the middle. Left of the line at 1 the advice "
        "ends below Keras' default."
    )
    return label, caption


@described.register
def _(plot: Curves) -> tuple[str, str]:
    label = f"Losses of {len(plot.results)} short trainings over their steps"
    caption = (
        "Lines: minibatch loss, smoothed. Diamonds: validation loss of a copy after a short "
        "cooldown. A cross ends a training that diverged. The table below holds the figures."
    )
    return label, caption


@described.register
def _(plot: Rates) -> tuple[str, str]:
    ends = ", ".join(f"{rate:.4g} at step {step:,}" for step, rate in plot.points)
    return f"The learning rate over the training: {ends}", "The advised learning rate at each step."


@figure.register
def _(plot: Interval) -> go.Figure:
    low, middle, high = (
        min(max(r, 0.0), LARGEST_RATIO) for r in (plot.low, plot.middle, plot.high)
    )
    found = go.Figure(
        go.Scatter(
            x=[low, high], y=[0, 0], mode="lines", name="80% interval", hoverinfo="skip",
            line={"width": 16, "color": COLOURS[1]}, opacity=0.45, meta={"series": 1},
        )
    )  # fmt: skip
    found.add_scatter(
        x=[middle], y=[0], mode="markers", name="middle", meta={"series": 1},
        marker={"symbol": "diamond", "size": 13, "color": COLOURS[1]},
        hovertemplate="middle: %{x:.3f} times the default's loss<extra></extra>",
    )  # fmt: skip
    found.add_vline(x=1.0, line={"dash": "dash", "width": 1.5})
    margin = 0.08 * max(max(high, 1.0) - min(low, 1.0), 0.1)
    found.update_xaxes(
        range=[min(low, 1.0) - margin, max(high, 1.0) + margin],
        title="times the default's best loss",
    )
    found.update_yaxes(visible=False, range=[-1, 1], fixedrange=True)
    return found.update_layout(template="none", height=130, showlegend=False)


@figure.register
def _(plot: Rates) -> go.Figure:
    steps, rates = zip(*plot.points, strict=True)
    found = go.Figure(
        go.Scatter(
            x=steps, y=rates, mode="lines", name="learning rate", meta={"series": 1},
            line={"width": 2.5, "color": COLOURS[1]},
        )
    )  # fmt: skip
    found.update_xaxes(title="step", rangemode="tozero")
    found.update_yaxes(title="learning rate", rangemode="tozero", exponentformat="power")
    return found.update_layout(template="none", height=260, showlegend=False)


@figure.register
def _(plot: Curves) -> go.Figure:
    found = go.Figure()
    for number, result in enumerate(plot.results):
        _add(found, number, result)
    found.update_xaxes(**_steps(plot.results))
    found.update_yaxes(**_scale(plot.results))
    return found.update_layout(template="none", height=440, showlegend=True)


def short(name: str) -> str:
    """A name for a legend, as plotly takes text: cut, and with its markup taken for text."""
    cut = name if len(name) <= LONGEST_NAME else f"{name[: LONGEST_NAME - 1]}…"
    return html.escape(cut, quote=False)


def _add(found: go.Figure, number: int, result: ProbeResult) -> None:
    """One probe: its line, its diamonds, and a cross where it broke."""
    name = short(result.setting.label)
    common = {"name": name, "legendgroup": str(number), "meta": {"series": number % len(COLOURS)}}
    colour = COLOURS[number % len(COLOURS)]
    # Beyond the palette a colour comes again with dashes.
    dash = "solid" if number < len(COLOURS) else "dash"
    steps, means = smoothed(result.losses)
    if len(steps):
        found.add_scatter(
            x=steps, y=means, mode="lines", line={"color": colour, "width": 1.5, "dash": dash},
            hovertemplate=f"{name}, step %{{x}}: %{{y:.4g}}<extra></extra>", **common,
        )  # fmt: skip
    rungs = [rung for rung in result.rungs if math.isfinite(rung.loss)]
    if rungs:
        found.add_scatter(
            x=[r.step for r in rungs], y=[r.loss for r in rungs], mode="markers",
            marker={"color": colour, "size": 11, "symbol": "diamond",
                    "line": {"width": 1, "color": "white"}},
            hovertemplate=f"{name}, validation at step %{{x}}: %{{y:.4g}}<extra></extra>",
            showlegend=not len(steps), **common,
        )  # fmt: skip
    if result.diverged_at is not None and len(steps):
        found.add_scatter(
            x=[result.diverged_at], y=[means[-1]], mode="markers", showlegend=False,
            marker={"color": colour, "size": 11, "symbol": "x"},
            hovertemplate=f"{name} diverged at step %{{x}}<extra></extra>", **common,
        )  # fmt: skip


def _steps(results: Iterable[ProbeResult]) -> dict[str, object]:
    """The axis of steps: logarithmic where some went many times as far as others."""
    ends = [max(len(r.losses), *(rung.step for rung in r.rungs), 0) for r in results]
    ends = [end for end in ends if end] or [1]
    if max(ends) / min(ends) > WIDE:
        return {"title": "step (logarithmic)", "type": "log"}
    return {"title": "step", "rangemode": "tozero"}


def _scale(results: Iterable[ProbeResult]) -> dict[str, object]:
    """The axis of losses: what went far above the start leaves it, and no sign breaks it."""
    starts, seen = [], []
    for result in results:
        _, means = smoothed(result.losses)
        rungs = [rung.loss for rung in result.rungs if math.isfinite(rung.loss)]
        starts += [*means[:1], *(rungs[:1] if not len(means) else [])]
        seen += [*means, *rungs]
    if not seen:
        return {"title": "loss"}
    # Half of the trainings began at or below this, so those that broke cannot stretch the axis.
    start = float(np.median(starts))
    low, high = min(seen), min(max(seen), start + abs(start))
    if low > 0 and high / low > WIDE:
        margin = 0.05 * math.log10(high / low)
        ends = [math.log10(low) - margin, math.log10(high) + margin]
        return {"title": "loss (logarithmic)", "type": "log", "range": ends}
    margin = 0.05 * ((high - low) or abs(high) or 1.0)
    return {"title": "loss", "range": [low - margin, high + margin]}
