"""What can be wrong with a training: an illness is a class in one of the files here.

A file holds one subclass of `Illness`: what it reads, from which number on it speaks, what the
user is told, and what may be tried against it. Adding an illness is adding a file.
"""

from __future__ import annotations

import functools
import importlib
import pkgutil
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import keras
import numpy as np

from recommender.problem import Problem
from recommender.remedies import settings
from recommender.settings import Setting

if TYPE_CHECKING:
    from recommender.aftermath import Aftermath
    from recommender.description import Description
    from recommender.measurements import Measurements

# When the evidence is there: from the data alone, from measured gradients, after the race.
Moment = Literal["data", "start", "race"]


@dataclass(frozen=True)
class Finding:
    """One thing that the checks saw.

    Attributes:
        code: Short stable identifier.
        text: What was seen and what to do.
        blocking: Whether advice on optimizers is worth little until it is mended.
        value: The number that spoke; None where there is none.
    """

    code: str
    text: str
    blocking: bool = False
    value: float | None = None


@dataclass(frozen=True, eq=False)
class Mend:
    """One change that may be tried against an illness.

    Attributes:
        code: Of the illness.
        change: What to do, as an imperative.
        reason: What was seen.
        problem: Gives the problem with the change in it, or None where its model does not allow it;
            None where the problem stays.
        setting: Gives the setting to use instead; None where the optimizer stays.
        expected: Share by which the validation loss fell, as measured on recorded tasks
            (docs/benchmarks/mending.md): the highest is tried first; at or below 0 it is advised
            only where a test shows that it helps.
        own_loss: Whether the changed problem's own loss is the original one at outputs in other
            units, so that it is judged by that.
    """

    code: str
    change: str
    reason: str
    problem: Callable[[Problem], Problem | None] | None = None
    setting: Callable[[Setting], Setting] | None = None
    expected: float = 0.0
    own_loss: bool = False

    def __getstate__(self) -> dict[str, Any]:
        """What crosses to another process: the words, and whether a test was possible."""
        return {**vars(self), "problem": None, "setting": None, "_testable": self.testable}

    @property
    def testable(self) -> bool:
        """Whether a short training can show what it does."""
        possible = self.problem is not None or self.setting is not None
        return possible or bool(vars(self).get("_testable"))


@dataclass(frozen=True, eq=False)
class Evidence:
    """What an illness may read.

    Attributes:
        problem: What is trained.
        description: Its description.
        measured: Measurements of the start, each made and paid for when it is first read; None
            where nothing may be trained.
        race: What the race left; None before it.
    """

    problem: Problem
    description: Description
    measured: Any = None
    race: Any = None

    @property
    def plain(self) -> bool:
        """Whether there is one array of targets and one loss of Keras."""
        problem = self.problem
        return isinstance(problem.y, np.ndarray) and isinstance(problem.loss, keras.losses.Loss)

    @property
    def start(self) -> Measurements:
        """Measurements of the start, for illnesses of the moments "start" and "race"."""
        found: Measurements = self.measured
        return found

    @property
    def after(self) -> Aftermath:
        """What the race left, for illnesses of the moment "race"."""
        found: Aftermath = self.race
        return found


class Illness(ABC):
    """One thing that can be wrong, with the number that shows it.

    Attributes:
        code: Short stable identifier.
        moment: When the evidence is there.
        order: Those of a moment are asked in this order: cheap and blocking ones first.
        hint: Whether it is no fault but calls for another method: no warning, only advice.
        plain: Whether it reads targets and loss, so that it is asked only where `Evidence.plain`.
        source: Where the threshold comes from.
    """

    code: ClassVar[str]
    moment: ClassVar[Moment]
    order: ClassVar[int] = 50
    hint: ClassVar[bool] = False
    plain: ClassVar[bool] = False
    source: ClassVar[str]

    @abstractmethod
    def examine(self, evidence: Evidence) -> Finding | None:
        """What is seen of it; None for a healthy training."""

    def mends(self, evidence: Evidence, finding: Finding) -> Sequence[Mend]:
        """Changes that may be tried, the most promising first; none where words must do."""
        return ()

    def instead(self, finding: Finding, expected: float) -> list[Mend]:
        """The shipped list's optimizers against this illness, each in place of the present one."""
        return [
            Mend(
                self.code,
                f"Train with {setting.label}.",
                finding.text,
                setting=lambda _, own=setting: own,  # type: ignore[misc]
                expected=expected,
            )
            for setting in settings(self.code)
        ]

    def found(self, text: str, value: float | None = None, *, blocking: bool = False) -> Finding:
        """A finding of this illness."""
        return Finding(self.code, text, blocking, value)


@functools.cache
def illnesses() -> tuple[Illness, ...]:
    """All of them, in the order in which they are asked."""
    found = []
    for info in pkgutil.iter_modules(__path__):
        module = importlib.import_module(f"{__name__}.{info.name}")
        for kind in vars(module).values():
            own = isinstance(kind, type) and kind.__module__ == module.__name__
            if own and issubclass(kind, Illness):
                found.append(kind())
    return tuple(sorted(found, key=lambda illness: (illness.order, illness.code)))


def of_moment(moment: Moment) -> list[Illness]:
    """Those whose evidence is there at this moment."""
    return [illness for illness in illnesses() if illness.moment == moment]
