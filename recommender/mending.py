"""What a change really does: the same short training with and without it, on the same batches."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from recommender.budget import GRADIENT, Budget
from recommender.errors import BudgetExhausted
from recommender.illnesses import Mend
from recommender.population import open_population
from recommender.problem import Problem
from recommender.seeding import seeded
from recommender.settings import Setting
from recommender.statistics import PairedDifference, paired_difference

# How many changes a tier tries.
TRIED = {"instant": 0, "quick": 1, "standard": 3, "thorough": 5}
# A smaller change of the loss is no effect, however clear.
LEAST_EFFECT = 0.01
# What layers and losses raise where a change does not suit them.
CANNOT = (NotImplementedError, RuntimeError, TypeError, ValueError)
# Fewer blocks agree too often by chance.
LEAST_BLOCKS = 8


@dataclass(frozen=True)
class Effect:
    """What a change did to the validation loss.

    Attributes:
        relative: Change of the loss as a share of the unchanged one's: -0.2 is a fifth lower.
        error: Standard error of that share, over the same validation blocks.
        step: Length of the short trainings, in steps of the unchanged problem.
        setting: Optimizer and rate of the unchanged side.
        agreed: Whether all blocks changed in the same direction: of eight, once in 128 by chance.
            It is what counts where one block's loss outweighs all others.
    """

    relative: float
    error: float
    step: int
    setting: Setting
    agreed: bool = False

    @property
    def helps(self) -> bool:
        """Whether the loss is lower, beyond twice the error or on every block."""
        return self.relative < -self._least

    @property
    def harms(self) -> bool:
        """Whether the loss is higher, beyond twice the error or on every block."""
        return not self.relative <= self._least

    @property
    def _least(self) -> float:
        return LEAST_EFFECT if self.agreed else max(LEAST_EFFECT, 2 * self.error)


def measured_effect(
    problem: Problem,
    mend: Mend,
    setting: Setting,
    length: tuple[int, int],
    budget: Budget,
    *,
    unchanged: Sequence[float] | None = None,
) -> Effect | None:
    """Train briefly with and without a change, and compare validation losses block by block.

    Both sides start from the same weights, see the same batches, run under the same optimizer
    unless that is the change, and are judged by the original loss.

    Args:
        problem: The unchanged problem.
        mend: The change.
        setting: Optimizer and rate.
        length: Steps, and the first of them that is cooled down.
        budget: Pays.
        unchanged: Validation blocks of the unchanged side at this length, where they are known.

    Returns:
        The effect, or None where the change does not fit the model.

    Raises:
        BudgetExhausted: It does not fit into what is left; nothing is spent then.
    """
    with seeded(problem.seed):
        changed: Problem | None = mend.problem(problem) if mend.problem else problem
    if changed is None:
        return None
    other = mend.setting(setting) if mend.setting else setting
    engine = open_population(problem, [setting], budget)
    each = GRADIENT * length[0] + engine.validation_price
    if not budget.affords(each if unchanged else 2 * each):
        raise BudgetExhausted(f"no room for a test of {mend.code}")
    blocks = unchanged or _blocks(problem, problem, setting, length, budget)
    # As many examples on both sides, whatever the batch size.
    times = problem.batch_size / changed.batch_size
    steps, start = (max(1, round(n * times)) for n in length)
    judge = changed if mend.own_loss else dataclasses.replace(changed, loss=problem.loss)
    scaled = Scaled(budget, changed.batch_size / problem.batch_size)
    theirs = _blocks(changed, judge, other, (steps, start), scaled)
    gap = paired_difference(theirs, blocks)
    signs = {a < b for a, b in zip(theirs, blocks, strict=False)}
    agreed = len(signs) == 1 and len(blocks) >= LEAST_BLOCKS
    return Effect(*_relative(gap, blocks), length[0], setting, agreed)


def _relative(gap: PairedDifference, blocks: Sequence[float]) -> tuple[float, float]:
    base = abs(float(np.mean(blocks)))
    if not math.isfinite(gap.gap):
        return (-1.0 if gap.gap > 0 else math.inf), 0.0
    return -gap.relative, gap.error / base if base > 0 else math.inf


def _blocks(
    problem: Problem,
    judge: Problem,
    setting: Setting,
    length: tuple[int, int],
    budget: Any,
) -> tuple[float, ...]:
    """One side: trained under its own loss, judged by another where that is meant."""
    trains = open_population(problem, [setting], budget)
    judges = trains if judge.loss is problem.loss else open_population(judge, [setting], budget)
    trunk = trains.trunk(setting)
    trunk.advance(length[1], "mending")
    state = trunk.cooled(length[0] - length[1], "mending")
    if state is None:
        return (math.inf,)
    return tuple(float(b) for b in judges.validate(state, "mending"))


class Scaled:
    """A budget seen by a training whose batches are of another size.

    Args:
        budget: Pays, in gradients of the unchanged batch.
        factor: What one gradient of the other batch costs.
    """

    def __init__(self, budget: Budget, factor: float) -> None:
        self._budget, self._factor = budget, factor

    def spend(self, purpose: str, gradients: float) -> None:
        """Book work in the unchanged batch's gradients."""
        self._budget.spend(purpose, gradients * self._factor)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._budget, name)


@dataclass(frozen=True, eq=False)
class Outcome:
    """A mend, and what came of it.

    Attributes:
        mend: What was proposed.
        effect: What it did; None where it was not tried.
        untried: Why it was not tried.
    """

    mend: Mend
    effect: Effect | None = None
    untried: str = ""

    @property
    def recommended(self) -> bool:
        """Whether it is advised: it helps here, or was not tried but has helped elsewhere."""
        if self.effect is not None:
            return self.effect.helps
        return not self.mend.testable or self.mend.expected > 0

    @property
    def rejected(self) -> bool:
        """Whether it was tried and did not help."""
        return self.effect is not None and not self.effect.helps

    @property
    def verdict(self) -> str:
        """What came of it, in a few words."""
        effect = self.effect
        if effect is None:
            return f"not tested: {self.untried}"
        where = f"at step {effect.step}, {effect.setting.label}"
        if not math.isfinite(effect.relative):
            return f"worse: training broke ({where}); leave it"
        size = f"validation loss {abs(effect.relative):.0%}"
        if effect.helps:
            return f"{size} lower ({where})"
        if effect.harms:
            return f"worse: {size} higher ({where}); leave it"
        return f"no effect seen ({effect.relative:+.1%} ± {effect.error:.1%}, {where})"

    def to_dict(self) -> dict[str, Any]:
        """The outcome as plain data, ready for JSON."""
        effect = self.effect
        measured: Any = "not tested"
        if effect is not None:
            measured = round(effect.relative, 4) if math.isfinite(effect.relative) else None
        return {
            "code": self.mend.code,
            "change": f"Do not: {self.mend.change}" if self.rejected else self.mend.change,
            "reason": self.mend.reason,
            "measured_effect": measured,
            "standard_error": round(effect.error, 4) if effect else None,
            "step": effect.step if effect else None,
            "recommended": self.recommended,
            "verdict": self.verdict,
        }


def tried(
    problem: Problem,
    mends: Sequence[Mend],
    setting: Setting,
    length: tuple[int, int] | None,
    budget: Budget,
    *,
    unchanged: Sequence[float] | None = None,
    told: Callable[[str], None] = lambda text: None,
) -> list[Outcome]:
    """Test as many mends as the tier and the rest of the budget allow, the most promising first.

    Args:
        problem: What is trained.
        mends: What was proposed.
        setting: The optimizer to test under.
        length: Steps and first cooled step; None where trainings are too short to test anything.
        budget: Pays.
        unchanged: Validation blocks at that length without a change, where they are known.
        told: Hears each outcome.

    Returns:
        One outcome per mend, in the order given.
    """
    room = TRIED[budget.tier]
    if not any(mend.testable for mend in mends) or not room:
        length = None
    if length is not None and unchanged is None:
        try:
            unchanged = _blocks(problem, problem, setting, length, budget)
        except BudgetExhausted:
            length = None
    found: dict[int, Outcome] = {}
    for mend in sorted(mends, key=lambda m: -m.expected):
        outcome = Outcome(mend, untried="nothing that a short training shows")
        if mend.testable:
            outcome, spent = _outcome(
                problem, mend, setting, length if room else None, budget, unchanged
            )
            room -= spent
            if spent:
                told(f"{mend.change} {outcome.verdict}")
        found[id(mend)] = outcome
    return [found[id(mend)] for mend in mends]


def _outcome(
    problem: Problem,
    mend: Mend,
    setting: Setting,
    length: tuple[int, int] | None,
    budget: Budget,
    unchanged: Sequence[float] | None,
) -> tuple[Outcome, bool]:
    if length is None:
        return Outcome(mend, untried="the budget has no room"), False
    try:
        effect = measured_effect(problem, mend, setting, length, budget, unchanged=unchanged)
    except BudgetExhausted:
        return Outcome(mend, untried="the budget has no room"), False
    except CANNOT as error:
        reason = str(error).strip().partition("\n")[0]
        return Outcome(mend, untried=f"it could not be tried ({reason})"), False
    if effect is None:
        return Outcome(mend, untried="the model's graph does not allow it"), False
    return Outcome(mend, effect), True
