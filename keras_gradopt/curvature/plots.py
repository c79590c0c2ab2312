"""What the figures of this folder have in common."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def graph_objects(who: str) -> Any:
    """`plotly.graph_objects`.

    Args:
        who: What wants to draw, for the error.

    Raises:
        ImportError: plotly is not installed.
    """
    try:
        import plotly.graph_objects as go
    except ImportError as error:
        raise ImportError(
            f"{who} draws with plotly, which is not installed. Install it: pip install plotly. The "
            "numbers themselves are in the record's attributes."
        ) from error
    return go


def finish(figure: Any, path: str | Path | None, title: str, **layout: Any) -> Any:
    """Gives a figure its title and axes, and writes it as an HTML page if a path is given.

    Args:
        figure: A `plotly.graph_objects.Figure`.
        path: Where to write; None writes nothing.
        title: Its title.
        **layout: More of plotly's layout.

    Returns:
        The figure.
    """
    figure.update_layout(title=title, template="plotly_white", **layout)
    if path is not None:
        figure.write_html(path)
    return figure
