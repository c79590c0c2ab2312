"""An advice as HTML: one self-contained page, and a fragment for notebooks."""

from __future__ import annotations

import html
import json
from collections.abc import Mapping, Sequence
from functools import singledispatch
from importlib import resources
from string import Template
from typing import Any

import plotly.graph_objects as go
from plotly.offline import get_plotlyjs

from recommender.presentation.document import (
    Block,
    Code,
    Curves,
    Document,
    Interval,
    Items,
    Plot,
    Rates,
    Section,
    Table,
    Text,
)
from recommender.presentation.figures import COLOURS, described, figure

# What a notebook shows unfolded.
UNFOLDED = frozenset({"expect", "mend"})
# Notebooks set tables flush right, which is for figures only.
_FRAGMENT_STYLE = (
    "<style>.gradopt-advice { overflow-x: auto; } .gradopt-advice :is(th, td) "
    "{ text-align: left !important; vertical-align: top; } .gradopt-advice .number "
    "{ text-align: right !important; } .gradopt-advice tr.marked { font-weight: bold; }</style>"
)


def page(document: Document, plain: Mapping[str, Any], figures: Sequence[go.Figure] = ()) -> str:
    """The whole report, with plots, that needs nothing from anywhere else.

    Args:
        document: What it says.
        plain: The advice as `Advice.to_dict` gives it; stands at the end.
        figures: Further plots, shown first.
    """
    more = "".join(_plot(one, *_titled(one)) for one in figures)
    lead = "".join(f'<p class="lead">{_escaped(text.text)}</p>' for text in document.lead)
    parts = [
        f"<h1>{_escaped(document.title)}</h1>",
        lead,
        written(document.code),
        f"<section><h2>Full trainings</h2>{more}</section>" if more else "",
        *map(_section, document.sections),
    ]
    template = resources.files(__package__).joinpath("page.html").read_text(encoding="utf-8")
    return Template(template).substitute(
        title=_escaped(document.title),
        plotly=get_plotlyjs(),
        body="\n".join(parts),
        json=_escaped(json.dumps(plain, indent=1, ensure_ascii=False)),
    )


def fragment(document: Document) -> str:
    """The answer for a notebook, without plots, in the notebook's own colours.

    Args:
        document: What it says.
    """
    lead = "".join(f"<p>{_escaped(text.text)}</p>" for text in document.lead)
    short = [_section(_plotless(s), 4) for s in document.sections if s.name in UNFOLDED]
    rest = [_section(_plotless(s), 4) for s in document.sections if s.name not in UNFOLDED]
    return (
        f'<div class="gradopt-advice">{_FRAGMENT_STYLE}<h3>{_escaped(document.title)}</h3>{lead}'
        f"<pre><code>{_escaped(document.code.text)}</code></pre>{''.join(short)}"
        f"<details><summary>The evidence, the alternatives and the cost</summary>{''.join(rest)}"
        "</details></div>"
    )


@singledispatch
def written(block: Block) -> str:
    """One block as HTML."""
    raise TypeError(f"{type(block).__name__} is no block.")


@written.register
def _(block: Text) -> str:
    return f"<p{_class('quiet' if block.quiet else '')}>{_escaped(block.text)}</p>"


@written.register
def _(block: Items) -> str:
    entries = "".join(f"<li>{_escaped(text)}</li>" for text in block.texts)
    return f"<ul{_class('urgent' if block.urgent else '')}>{entries}</ul>"


@written.register
def _(block: Code) -> str:
    return (
        '<div class="code"><button type="button" data-copy hidden>Copy</button>'
        f'<pre tabindex="0" aria-label="Python code"><code>{_escaped(block.text)}</code></pre>'
        "</div>"
    )


@written.register
def _(block: Table) -> str:
    kinds = ["number" if at in block.numbers else "" for at in range(len(block.columns))]
    head = "".join(
        f'<th scope="col"{_class(kind)}>{_escaped(name)}</th>'
        for kind, name in zip(kinds, block.columns, strict=True)
    )
    rows = []
    for row in block.rows:
        first, *others = row.cells
        cells = "".join(
            f"<td{_class(kind)}>{_escaped(cell)}</td>"
            for kind, cell in zip(kinds[1:], others, strict=True)
        )
        name = f'<th scope="row">{_dash(row.series)}{_escaped(first)}</th>'
        rows.append(f"<tr{_class('marked' if row.marked else '')}>{name}{cells}</tr>")
    caption = _escaped(block.caption)
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="{caption}"><table>'
        f"<caption>{caption}</caption><thead><tr>{head}</tr></thead>"
        f"<tbody>{''.join(rows)}</tbody></table></div>"
    )


@written.register(Interval)
@written.register(Curves)
@written.register(Rates)
def _(block: Plot) -> str:
    return _plot(figure(block), *described(block))


def _section(section: Section, level: int = 2) -> str:
    blocks = "".join(map(written, section.blocks))
    heading = f"<h{level}>{_escaped(section.heading)}</h{level}>"
    return f'<section data-part="{section.name}">{heading}{blocks}</section>'


def _plotless(section: Section) -> Section:
    kept = tuple(b for b in section.blocks if not isinstance(b, (Interval, Curves, Rates)))
    return Section(section.name, section.heading, kept)


def _plot(drawn: go.Figure, label: str, caption: str) -> str:
    """A place that the page's script draws into, with the figure beside it as data."""
    data = drawn.to_json().replace("<", "\\u003c")
    height = drawn.layout.height or 420
    return (
        f'<figure><div class="plot" role="img" aria-label="{_escaped(label)}" '
        f'style="height:{height}px"></div><script type="application/json">{data}</script>'
        "<noscript><p>The plot needs scripts.</p></noscript>"
        f"<figcaption>{_escaped(caption)}</figcaption></figure>"
    )


def _titled(drawn: go.Figure) -> tuple[str, str]:
    title = drawn.layout.title.text or "Plot"
    return (
        title,
        f"{drawn.layout.yaxis.title.text or 'Values'} over {drawn.layout.xaxis.title.text}",
    )


def _dash(series: int | None) -> str:
    if series is None:
        return ""
    style = "dashed" if series >= len(COLOURS) else "solid"
    colour = f"var(--series-{series % len(COLOURS)})"
    return f'<span class="dash" style="border-top-color:{colour};border-top-style:{style}"></span>'


def _class(name: str) -> str:
    return f' class="{name}"' if name else ""


def _escaped(text: str) -> str:
    return html.escape(text)
