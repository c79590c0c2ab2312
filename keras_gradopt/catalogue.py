"""Turns a class into its catalogue entry by reading it."""

from __future__ import annotations

import dataclasses
import inspect
import math
import re
from typing import Any

from keras_gradopt import nested, registry
from keras_gradopt.arguments import Arguments, serialize
from keras_gradopt.optimizer import Optimizer

# State is counted beside a matrix of this shape: large enough that scalars do not show.
_SHAPE = (64, 64)
_SECTIONS = ("Args", "Returns", "Raises", "Attributes", "Example", "References")


@dataclasses.dataclass(frozen=True)
class Argument:
    """One constructor argument.

    Attributes:
        name: Its name.
        default: Its default; None where there is none.
        description: From the docstring.
        range: The interval allowed, as text; None for structure (bool, int, str, objects).
        scale: The scale on which to search it; None for structure.
        schedulable: Whether it takes a schedule.
    """

    name: str
    default: Any
    description: str
    range: str | None
    scale: str | None
    schedulable: bool


@dataclasses.dataclass(frozen=True)
class Entry:
    """One method of the catalogue.

    Attributes:
        name: Name for `get`, the file's name.
        class_name: The class, at `keras_gradopt.<class_name>`.
        family: The folder: what the rule gets to see.
        needs: gradient, closure, curvature, layers, dataset or population.
        paper: First reference: authors, title, venue.
        year: Year of that reference.
        summary: One line that helps to choose.
        use: When to use it.
        equations: The update in LaTeX, line by line.
        hyperparameters: The constructor's arguments.
        state_multiple: Memory of the state in multiples of the parameters.
        gradient_evaluations_per_step: Cost of a step in gradients of the loss.
        references: All references, as in the docstring.
    """

    name: str
    class_name: str
    family: str
    needs: str
    paper: str
    year: int
    summary: str
    use: str
    equations: tuple[str, ...]
    hyperparameters: tuple[Argument, ...]
    state_multiple: float
    gradient_evaluations_per_step: float
    references: str

    def to_dict(self) -> dict[str, Any]:
        """The entry as plain data, ready for JSON."""
        return dataclasses.asdict(self)


@dataclasses.dataclass(frozen=True)
class ScheduleEntry:
    """One schedule of the catalogue.

    Attributes:
        name: The file's name.
        class_name: The class, at `keras_gradopt.schedules.<class_name>`.
        paper: First reference: authors, title, venue.
        year: Year of that reference.
        summary: One line that helps to choose.
        use: When to use it.
        equations: The value at a step in LaTeX, line by line.
        hyperparameters: The constructor's arguments.
        references: All references, as in the docstring.
    """

    name: str
    class_name: str
    paper: str
    year: int
    summary: str
    use: str
    equations: tuple[str, ...]
    hyperparameters: tuple[Argument, ...]
    references: str

    def to_dict(self) -> dict[str, Any]:
        """The entry as plain data, ready for JSON."""
        return dataclasses.asdict(self)


def methods() -> list[Entry]:
    """The catalogue: one entry per optimizer, sorted by name.

    Example:
        >>> [entry.year for entry in methods() if entry.class_name == "Adam"]
        [2015]
    """
    return sorted((entry(cls) for cls in registry.optimizer_classes().values()), key=_name)


def schedules() -> list[ScheduleEntry]:
    """The schedules' catalogue, sorted by name.

    Example:
        >>> [entry.year for entry in schedules() if entry.class_name == "CosineDecay"]
        [2017]
    """
    classes = registry.members(f"{registry.PACKAGE}.schedules").values()
    return sorted((ScheduleEntry(**_read(cls)) for cls in classes), key=_name)


def _name(entry: Entry | ScheduleEntry) -> str:
    return entry.name


def entry(cls: type[Optimizer]) -> Entry:
    """The catalogue entry of one optimizer class.

    Args:
        cls: A class of a family folder.

    Raises:
        ValueError: The docstring lacks a part that the catalogue shows.
    """
    return Entry(
        family=cls.__module__.split(".")[-2],
        needs=cls.needs,
        state_multiple=state_multiple(cls.example()),
        gradient_evaluations_per_step=cls.gradient_evaluations_per_step,
        **_read(cls),
    )


def _read(cls: type[Arguments]) -> dict[str, Any]:
    """What the docstring and the signature of any class say."""
    parts = sections(inspect.cleandoc(cls.__doc__ or ""))
    intro = parts[""]
    equations = tuple(e.strip() for e in re.findall(r"\$\$(.+?)\$\$", intro, flags=re.DOTALL))
    references = parts.get("References", "")
    year = re.search(r"\b(19|20)\d\d\b", references)
    use = re.search(r"\n\n(Use it .+?)(?=\.\s|\.$|;)", intro, flags=re.DOTALL)
    if not equations or year is None or use is None:
        raise ValueError(
            f"The docstring of {cls.__name__} needs equations between $$, a reference with its "
            "year, and a sentence that begins with 'Use it'."
        )
    return {
        "name": cls.__module__.rpartition(".")[2],
        "class_name": cls.__name__,
        "paper": _one_line(references[: year.end()]),
        "year": int(year.group()),
        "summary": intro.partition("\n\n")[0],
        "use": _one_line(use.group(1)) + ".",
        "equations": equations,
        "hyperparameters": _arguments(cls, parts.get("Args", "")),
        "references": references,
    }


def sections(text: str) -> dict[str, str]:
    """Cuts a docstring into its sections, dedented; "" is what stands before the first."""
    pieces = re.split(rf"^({'|'.join(_SECTIONS)}):\n", text, flags=re.MULTILINE)
    found = {"": pieces[0].strip()}
    for title, body in zip(pieces[1::2], pieces[2::2], strict=True):
        found[title] = inspect.cleandoc("\n" + body)
    return found


def argument_texts(text: str) -> dict[str, str]:
    """Name to description, from an Args section."""
    found = re.findall(r"^(\*{0,2}\w+):(.*(?:\n[ \t]+.*)*)", text, flags=re.MULTILINE)
    return {name: _one_line(body) for name, body in found}


def _arguments(cls: type[Arguments], text: str) -> tuple[Argument, ...]:
    texts, ranges = argument_texts(text), cls.all_ranges()
    return tuple(
        Argument(
            name=name,
            default=None if default is inspect.Parameter.empty else serialize(default),
            description=texts.get(name, ""),
            range=str(ranges[name]) if name in ranges else None,
            scale=ranges[name].scale if name in ranges else None,
            schedulable=name in ranges and ranges[name].schedulable,
        )
        for name, default in cls.argument_defaults().items()
    )


def state_multiple(optimizer: Any) -> float:
    """Memory of an optimizer's state beside a matrix, in multiples of that matrix."""
    size = math.prod(_SHAPE)
    entries = [math.prod(slot.shape_for(_SHAPE)) for slot in optimizer.slots(_SHAPE)]
    if hasattr(optimizer, "vector_slots"):
        entries += [math.prod(slot.shape or ()) for slot in optimizer.vector_slots(size)]
    own = sum(n for n in entries if n > 1) / size
    inside = [part for part in nested.inside(optimizer) if isinstance(part, Optimizer)]
    return own + sum(map(state_multiple, inside))


def _one_line(text: str) -> str:
    return " ".join(text.split())
