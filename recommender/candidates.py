"""propose(...): what to try, the most promising first, each with its record elsewhere."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from recommender.errors import RequestError
from recommender.knowledge import contenders, grid
from recommender.knowledge.contenders import Contender
from recommender.knowledge.grid import Choice
from recommender.knowledge.prior import DEFAULT, Outlook
from recommender.settings import Setting, optimizer_class

Shape = Literal["constant", "late_cooldown"]
Role = Literal["default", "portfolio", "requested", "trial"]
# The default's own penalty: what is assumed of a rule that no recorded task was trained with.
UNKNOWN = 1.0


@dataclass(frozen=True)
class Fit:
    """How to call `model.fit` where the caller's way will not do.

    Attributes:
        batch_size: Examples per step.
        epochs: Passes over the data.
    """

    batch_size: int
    epochs: int


@dataclass(frozen=True)
class Candidate:
    """One answer that may be given.

    Attributes:
        setting: Optimizer and peak rate.
        shape: Constant, or constant with a cooldown to 0 over the last quarter.
        role: "default" (the hurdle), "portfolio", "requested" by the caller, or "trial": it
            evaluates the loss again, and is not raced but tried beside the race.
        prior: What it is expected to miss of the possible gain, from recorded tasks like this one:
            0 is the best of all, 1 the default.
        reason: Why it is tried.
        fit: How to train with it; None is as the caller does.
    """

    setting: Setting
    shape: Shape
    role: Role
    prior: float
    reason: str
    fit: Fit | None = None

    @property
    def label(self) -> str:
        """The candidate in a few words."""
        if self.role == "trial":
            return tried(self.setting.class_name)
        return labelled(self.setting.label, self.shape)

    @property
    def choice(self) -> Choice:
        """The same as the truth table names it."""
        return Choice(self.setting, self.shape)

    def to_dict(self, label: str) -> dict[str, Any]:
        """The candidate as plain data, ready for JSON, under this label."""
        return {
            "label": label,
            "role": self.role,
            "reason": self.reason,
            "expected_penalty": round(self.prior, 4),
        }


def labelled(setting: str, shape: Shape) -> str:
    """A setting's label with the schedule's shape."""
    return setting + (", late cooldown" if shape == "late_cooldown" else "")


def tried(class_name: str) -> str:
    """The label of an optimizer that is tried, not raced."""
    return f"{class_name} on a bound model"


def hurdle(outlook: Outlook | None = None) -> Candidate:
    """Keras' default as a candidate."""
    expected = UNKNOWN
    if outlook is not None:
        expected = float(outlook.expected[outlook.prior.choices.index(DEFAULT)])
    return Candidate(
        grid.DEFAULT, "constant", "default", expected, "it is Keras' own default, the hurdle"
    )


def propose(
    outlook: Outlook, include: Sequence[str] = (), width: int | None = None
) -> list[Candidate]:
    """The candidates for a task.

    Args:
        outlook: What recorded tasks make of it.
        include: Optimizers by name that must be tried, at their own default rate; those that need
            more than gradients are left to `recommender.contest`.
        width: How many settings there may be, the default and the requested ones included;
            None is all.

    Returns:
        The hurdle, the requested ones, then the portfolio in order of prior.

    Raises:
        RequestError: A requested name is unknown, or cannot be probed by name.
    """
    raced = [name for name in include if optimizer_class(name).needs == "gradient"]
    found = [hurdle(outlook), *(_requested(name) for name in raced)]
    kept = {one.setting for one in found}
    # The default with a cooldown costs no run of its own, so it takes no room.
    room = math.inf if width is None else max(1, width - len(found))
    for choice, expected in outlook.ranked():
        if choice == DEFAULT:
            continue
        if choice.setting not in kept:
            if not room:
                continue
            kept.add(choice.setting)
            room -= 1
        found.append(_listed(choice, expected))
    return found


def mentioned(description: Mapping[str, Any], tier: str) -> list[Candidate]:
    """What a description speaks for that is no candidate of a race, and was not tried either."""
    return [apart(one) for one in contenders.plausible(description, tier)]


def apart(contender: Contender) -> Candidate:
    """A contender as a candidate."""
    return Candidate(contender.setting, "constant", "trial", UNKNOWN, contender.reason)


def best_unprobed(candidates: Sequence[Candidate]) -> Candidate:
    """What to advise when nothing can be measured."""
    return min(candidates, key=lambda c: c.prior)


def _listed(choice: Choice, expected: float) -> Candidate:
    if expected < 0:
        record = "all of the possible gain over the default"
    elif expected < 1:
        record = f"{1 - expected:.0%} of the possible gain over the default"
    else:
        record = "nothing that the default does not"
    return Candidate(
        choice.setting, "late_cooldown", "portfolio", expected,
        f"on recorded tasks like this one it reached {record}",
    )  # fmt: skip


def _requested(name: str) -> Candidate:
    cls = optimizer_class(name)
    defaults = cls.argument_defaults()
    if "learning_rate" not in defaults:
        raise RequestError(
            f"{cls.__name__} wraps another optimizer and cannot be probed by name. Leave it out "
            "of include.",
            code="unsupported_optimizer",
        )
    setting = Setting(name, float(defaults["learning_rate"]))
    return Candidate(setting, "late_cooldown", "requested", UNKNOWN, "the caller asked for it")
