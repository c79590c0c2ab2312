"""The terminal: tables on stdout, and what a script is at on stderr, since it runs long."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

Item = TypeVar("Item")


def told(
    items: Iterable[Item], name: Callable[[Item], str]
) -> Iterator[tuple[Item, Callable[[str], Any]]]:
    """Goes through items with a bar; beside each comes a function that tells what goes on.

    Args:
        items: What is to be done.
        name: What the bar calls one of them.
    """
    items = list(items)
    columns = (BarColumn(20), MofNCompleteColumn(), TimeElapsedColumn())
    text = TextColumn("{task.description}")
    with Progress(*columns, text, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("", total=len(items))
        for item in items:

            def tell(what: str, item: Item = item) -> None:
                progress.update(task, description=f"{name(item)}: {what}")

            tell("")
            yield item, tell
            progress.update(task, advance=1)


def print_table(table: Table) -> None:
    """Prints a table, whole where nobody says how wide the page is."""
    console = Console()
    if not console.is_terminal:
        console = Console(width=120)
    console.print(table)


def in_digits(ratio: tuple[float, float, float]) -> str:
    """A median and its quartiles."""
    low, middle, high = ratio
    return f"{middle:.2f} ({low:.2f} to {high:.2f})"
