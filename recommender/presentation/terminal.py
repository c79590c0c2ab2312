"""An advice on a terminal."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import singledispatch

import numpy as np
from rich import box
from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.table import Table as Grid
from rich.text import Text as Line

from recommender.presentation.curves import Floats, smoothed
from recommender.presentation.document import (
    Block,
    Code,
    Curves,
    Document,
    Interval,
    Items,
    Rates,
    Table,
    Text,
)
from recommender.words import LARGEST_RATIO

HEIGHTS = "▁▂▃▄▅▆▇█"
# Columns of a curve, and of the interval's bar.
CURVE, BAR = 32, 56
# Names of rows are not broken within words of up to this length.
UNBROKEN = 16
# Sections whose words stand elsewhere already.
LEFT_OUT = frozenset({"schedule"})


class Terminal:
    """A document that rich can print, in colours where the terminal has them.

    Args:
        document: What to show.
    """

    def __init__(self, document: Document) -> None:
        self._document = document

    def __rich_console__(
        self, console: Console, options: ConsoleOptions
    ) -> Iterator[RenderableType | Segment]:
        """Called by rich."""
        for part in self._parts():
            if not options.ascii_only:
                yield part
                continue
            # Names of layers and the like may hold what this terminal cannot write.
            for segment in console.render(part, options):
                text = segment.text.encode(options.encoding, "replace").decode(options.encoding)
                yield Segment(text, segment.style, segment.control)

    def _parts(self) -> Iterator[RenderableType]:
        whole = self._document
        yield Line(whole.title, style="bold green")
        yield from map(shown, whole.lead)
        yield shown(whole.code)
        for section in whole.sections:
            if section.name not in LEFT_OUT:
                yield Line(f"\n{section.heading}", style="bold cyan")
                yield from map(shown, section.blocks)


@singledispatch
def shown(block: Block) -> RenderableType:
    """One block as rich prints it."""
    raise TypeError(f"{type(block).__name__} is no block.")


@shown.register
def _(block: Text) -> RenderableType:
    return Line(block.text, style="dim" if block.quiet else "")


@shown.register
def _(block: Items) -> RenderableType:
    grid = Grid.grid(padding=(0, 1, 0, 0))
    style = "bold red" if block.urgent else ""
    for text in block.texts:
        grid.add_row(Line("!" if block.urgent else "-", style), Line(text, style))
    return grid


@shown.register
def _(block: Code) -> RenderableType:
    # Not folded: a terminal wraps it by itself, and it can be copied as it stands.
    return Line(f"\n{block.text.strip()}", style="green", no_wrap=True, overflow="ignore")


@shown.register
def _(block: Table) -> RenderableType:
    grid = Grid(
        box=box.SIMPLE_HEAD, title=block.caption, title_justify="left", title_style="dim",
        padding=(0, 1, 0, 0),
    )  # fmt: skip
    for position, heading in enumerate(block.columns):
        if position in block.numbers:
            grid.add_column(Line(heading), justify="right", no_wrap=True)
        else:
            words = [word for row in block.rows for word in row.cells[position].split()]
            least = 0 if position else min(max(map(len, words), default=0), UNBROKEN)
            grid.add_column(Line(heading), overflow="fold", min_width=least)
    for row in block.rows:
        grid.add_row(*map(Line, row.cells), style="bold" if row.marked else None)
    return grid


@shown.register
def _(block: Interval) -> RenderableType:
    return Bar(block)


@shown.register
def _(block: Rates) -> RenderableType:
    return Line(", ".join(f"{rate:.4g} at step {step:,}" for step, rate in block.points))


@shown.register
def _(block: Curves) -> RenderableType:
    return Sparklines(block)


@dataclass(frozen=True)
class Bar:
    """An interval in one line, with the default's loss in it.

    Attributes:
        interval: What it shows.
    """

    interval: Interval

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[Line]:
        """Called by rich."""
        one = self.interval
        low, high = min(one.low, 1.0), min(max(one.high, 1.0), LARGEST_RATIO)

        def column(ratio: float) -> int:
            return round((BAR - 1) * (min(ratio, high) - low) / ((high - low) or 1.0))

        inside, middle, default = "-o|" if options.ascii_only else "─◆│"
        bar = [" "] * BAR
        first, last = column(one.low), column(one.high)
        bar[first : last + 1] = inside * (last + 1 - first)
        bar[column(1.0)] = default
        bar[column(one.middle)] = middle
        yield Line(f"  {low:.2f} {''.join(bar)} {high:.2f}")
        yield Line(f"  {middle} middle, {default} Keras' default at 1.00", style="dim")


@dataclass(frozen=True)
class Sparklines:
    """The loss of each short training in one line; nothing on a terminal that writes ASCII only.

    Attributes:
        curves: What it shows.
    """

    curves: Curves

    def __rich_console__(
        self, console: Console, options: ConsoleOptions
    ) -> Iterator[RenderableType]:
        """Called by rich."""
        found = [(result, *smoothed(result.losses)) for result in self.curves.results]
        found = [curve for curve in found if len(curve[1])]
        if options.ascii_only or not found:
            return
        longest = max(steps[-1] for _, steps, _ in found)
        start = float(np.median([means[0] for _, _, means in found]))
        scale = min(means.min() for _, _, means in found), start + abs(start)
        grid = Grid.grid(padding=(0, 2, 0, 2))
        for result, steps, means in found:
            drawn = sparkline(steps, means, longest, scale)
            grid.add_row(Line(result.setting.label), Line(drawn), Line(f"{means[-1]:.4g}"))
        yield grid
        yield Line(
            f"  Minibatch loss, smoothed, with its last value; {longest:,.0f} steps on a "
            "logarithmic scale.",
            style="dim",
        )


def sparkline(steps: Floats, losses: Floats, longest: float, scale: tuple[float, float]) -> str:
    """A curve in one line of blocks, the steps on a logarithmic scale.

    Args:
        steps: At least one, increasing.
        losses: As many.
        longest: The step at the right end.
        scale: The loss at the bottom and at the top; logarithmic where both are above 0.
    """
    at = np.exp(np.linspace(0, np.log(max(longest, 2)), CURVE))
    values = np.interp(at[at <= steps[-1] * (1 + 1e-9)], steps, losses)
    low, high = scale
    if low > 0:
        values, low, high = np.log(np.maximum(values, low)), np.log(low), np.log(high)
    places = np.rint((len(HEIGHTS) - 1) * (values - low) / ((high - low) or 1.0))
    return "".join(HEIGHTS[int(at)] for at in np.clip(places, 0, len(HEIGHTS) - 1))
