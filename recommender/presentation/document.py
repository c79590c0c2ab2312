"""What a report is made of, whoever shows it: headings, sentences, tables and plots."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from recommender.probes import ProbeResult


@dataclass(frozen=True)
class Text:
    """A paragraph.

    Attributes:
        text: Its sentences.
        quiet: Whether it is a remark.
    """

    text: str
    quiet: bool = False


@dataclass(frozen=True)
class Items:
    """A list of sentences.

    Attributes:
        texts: One entry each.
        urgent: Whether nothing else matters before they are seen to.
    """

    texts: tuple[str, ...]
    urgent: bool = False


@dataclass(frozen=True)
class Code:
    """Python text to copy."""

    text: str


@dataclass(frozen=True)
class Row:
    """One line of a table.

    Attributes:
        cells: As many as the table has columns; the first one names the row.
        marked: Whether it is the one that the reader looks for.
        series: Number of its curve in the plot above the table; None where it has none.
    """

    cells: tuple[str, ...]
    marked: bool = False
    series: int | None = None


@dataclass(frozen=True)
class Table:
    """Figures in rows.

    Attributes:
        caption: What it shows.
        columns: The headings.
        rows: The lines.
        numbers: Positions of the columns that hold figures.
    """

    caption: str
    columns: tuple[str, ...]
    rows: tuple[Row, ...]
    numbers: frozenset[int] = frozenset()


@dataclass(frozen=True)
class Interval:
    """A plot of where the best loss will lie, as multiples of the default's."""

    low: float
    middle: float
    high: float


@dataclass(frozen=True)
class Curves:
    """A plot of the short trainings.

    Attributes:
        results: The probes.
    """

    results: tuple[ProbeResult, ...]


@dataclass(frozen=True)
class Rates:
    """A plot of the advised learning rate.

    Attributes:
        points: (step, rate) at the corners of its line.
    """

    points: tuple[tuple[int, float], ...]


Plot = Interval | Curves | Rates
Block = Text | Items | Code | Table | Interval | Curves | Rates


@dataclass(frozen=True)
class Section:
    """A heading with what belongs to it.

    Attributes:
        name: Short stable identifier.
        heading: The heading.
        blocks: What stands below it.
    """

    name: str
    heading: str
    blocks: tuple[Block, ...]

    def of(self, kind: type[Block]) -> Iterator[Block]:
        """Its blocks of one kind."""
        return (block for block in self.blocks if isinstance(block, kind))


@dataclass(frozen=True)
class Document:
    """A whole report.

    Attributes:
        title: The answer in one line.
        lead: The sentences below it.
        code: The answer to copy.
        sections: The rest, in the order a reader asks for it.
    """

    title: str
    lead: tuple[Text, ...]
    code: Code
    sections: tuple[Section, ...]
