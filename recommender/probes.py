"""race(...): short trainings of the candidates, fewer and longer from rung to rung."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from recommender.budget import Budget
from recommender.errors import BudgetExhausted, ProbeFailed
from recommender.knowledge import grid
from recommender.progress import Progress
from recommender.settings import Setting
from recommender.standing import standings

# Rungs of the race: length as a share of the full training, and how many reach it, the default
# among the first. Each length is in `grid.HORIZONS`, so that the truth table can replay the race.
PLAN = {
    "quick": ((0.02, 4),),
    "standard": ((0.01, 8), (0.04, 4), (0.16, 2)),
    "thorough": ((0.04, 8), (0.25, 4), (0.5, 2)),
}
# Below this full length a tenth of it is too short for a race.
LEAST_STEPS_TO_RACE = 2000
# A shorter training than this tells nothing.
FIRST_STEPS = 40


@dataclass(frozen=True)
class Rung:
    """What one candidate showed at one rung.

    Attributes:
        step: Length of the short training, its late cooldown included.
        blocks: Validation loss at its end, per validation block; infinite if it diverged.
    """

    step: int
    blocks: tuple[float, ...]

    @property
    def loss(self) -> float:
        """The mean over the blocks."""
        return float(np.mean(self.blocks))


@dataclass(frozen=True)
class ProbeResult:
    """One setting's race.

    Attributes:
        setting: Optimizer and rate.
        rungs: What it showed, in order.
        losses: Minibatch loss of its trunk before each step.
        diverged_at: Step at which its loss stopped being finite, or None.
        stopped: Why it went no further; where it could not be trained, how it failed.
    """

    setting: Setting
    rungs: tuple[Rung, ...]
    losses: tuple[float, ...]
    diverged_at: int | None
    stopped: str

    def to_dict(self) -> dict[str, Any]:
        """The result as plain data, ready for JSON."""
        return {
            "candidate": self.setting.label,
            "rungs": [
                {"step": r.step, "val_loss": r.loss if math.isfinite(r.loss) else None}
                for r in self.rungs
            ],
            "diverged_at": self.diverged_at,
            "stopped": self.stopped,
        }


class Raced(Protocol):
    """What a race needs of whoever trains: the probe engine, or recorded trainings."""

    progress: Progress

    def rung_price(self, setting: Setting, length: int, start: int) -> float:
        """What `rung` would cost now, in gradient evaluations."""

    def rung(self, setting: Setting, length: int, start: int) -> tuple[float, ...]:
        """Validation blocks after `length` steps, cooled down from step `start` on."""

    def stop(self, setting: Setting) -> None:
        """Let go of what only going on would need."""

    def trunk(self, setting: Setting) -> Any:
        """The run at constant rate, with its `losses` and `diverged_at`."""


@dataclass(frozen=True)
class Stage:
    """One rung of a tier's plan on a task.

    Attributes:
        share: Length over that of the full training.
        steps: Length in steps.
        cooled_from: The first step of the cooldown.
        room: How many may reach it.
    """

    share: float
    steps: int
    cooled_from: int
    room: int


def plan(tier: str, full_steps: int) -> list[Stage]:
    """The rungs of a tier that are long enough to tell anything."""
    found = grid.horizons(full_steps)
    return [
        Stage(share, *found[share], room)
        for share, room in PLAN[tier]
        if share in found and found[share][0] >= FIRST_STEPS
    ]


def width(tier: str, full_steps: int) -> int:
    """How many settings the race of a tier can take in."""
    stages = plan(tier, full_steps) if tier in PLAN else []
    return stages[0].room if stages else 2


def race(
    population: Raced,
    priors: Mapping[Setting, float],
    hurdle: Setting,
    initial: float,
    budget: Budget,
    wanted: Collection[Setting] = (),
) -> list[ProbeResult]:
    """Short trainings of the most promising, the longer the fewer.

    A setting's trunk at constant rate goes on from where it was and a copy of it is cooled down,
    so no step of it is made twice. Who goes on is decided by `standing.standings`: the prior,
    corrected by what the rung shows, the more the longer it is.

    Args:
        population: Trains; its progress hears how the race goes.
        priors: What to try, with its expected penalty; the hurdle among them.
        hurdle: The setting to beat; it runs to the first rung at least.
        initial: Validation loss before training.
        budget: Where steps are booked; the race ends where the next rung does not fit.
        wanted: Settings that run to the first rung whatever their prior.

    Returns:
        One result per setting, in the order of `priors`.
    """  # fmt: skip
    stages = plan(budget.tier, budget.full_steps)
    rungs: dict[Setting, list[Rung]] = {s: [] for s in priors}
    ends = _Ends(population, rungs)
    running = sorted(priors, key=lambda s: (s != hurdle, s not in wanted, priors[s]))
    for stage in stages:
        fitting = _affordable(population, running[: stage.room], stage, budget)
        if len(fitting) < 2:
            break
        ends.stop(s for s in running if s not in fitting)
        try:
            for setting in fitting:
                reason = _probed(population, setting, stage, rungs[setting])
                if reason is not None:
                    ends.stop([setting], reason)
        except BudgetExhausted as error:
            population.progress.said(str(error))
            break
        shown = {s: rungs[s][-1].loss for s in fitting if s not in ends.reasons}
        running = _held(priors, shown, initial, stage)
        ends.stop((s for s in shown if s not in running), "diverged")
        for setting in running[_next_room(stages, stage) :]:
            place = f"place {running.index(setting) + 1} of {len(fitting)} at step {stage.steps}"
            ends.stop([setting], place)
        running = running[: _next_room(stages, stage)]
        for setting in fitting:
            if setting not in running:
                population.stop(setting)
    ends.stop(s for s in priors if s not in ends.reasons)
    return [
        ProbeResult(
            setting,
            tuple(rungs[setting]),
            tuple(population.trunk(setting).losses),
            population.trunk(setting).diverged_at,
            ends.reasons[setting],
        )
        for setting in priors
    ]


class _Ends:
    """Why settings went no further, told as it happens."""

    def __init__(self, population: Raced, rungs: Mapping[Setting, Sequence[Rung]]) -> None:
        self.reasons: dict[Setting, str] = {}
        self._population = population
        self._rungs = rungs

    def stop(self, settings: Iterable[Setting], reason: str | None = None) -> None:
        """Note a reason; without one, that the budget does not reach further."""
        for setting in settings:
            self.reasons[setting] = reason or _left_behind(self._rungs[setting])
            self._population.progress.stopped(setting, self.reasons[setting])


def _held(
    priors: Mapping[Setting, float], shown: Mapping[Setting, float], initial: float, stage: Stage
) -> list[Setting]:
    """Those whose loss at a rung is finite, the most promising first."""
    standing = standings(priors, shown, initial, stage.share) if shown else {}
    return [s for s, value in standing.items() if math.isfinite(value)]


def _next_room(stages: Sequence[Stage], stage: Stage) -> int | None:
    """How many go on after a stage; None after the last."""
    later = stages[stages.index(stage) + 1 :]
    return later[0].room if later else None


def _left_behind(rungs: Sequence[Rung]) -> str:
    """Why a setting went no further though nobody stopped it."""
    if not rungs:
        return "the budget ended before its first rung"
    return f"went as far as the budget allows: step {rungs[-1].step}"


def _probed(population: Raced, setting: Setting, stage: Stage, rungs: list[Rung]) -> str | None:
    """Add what a setting shows at a rung, or say why it could not be trained."""
    try:
        blocks = population.rung(setting, stage.steps, stage.cooled_from)
    except ProbeFailed as error:
        return str(error)
    found = Rung(stage.steps, blocks)
    rungs.append(found)
    shown = f"{found.loss:.4g}" if math.isfinite(found.loss) else "diverged"
    population.progress.judged(setting, found.step, found.loss)
    population.progress.said(f"step {found.step}: {setting.label} {shown}")
    return None


def _affordable(
    population: Raced, running: Sequence[Setting], stage: Stage, budget: Budget
) -> list[Setting]:
    """As many of the running ones, in their order, as the rung's price allows."""
    chosen, price = [], 0.0
    for setting in running:
        price += population.rung_price(setting, stage.steps, stage.cooled_from)
        if budget.affords(price):
            chosen.append(setting)
    return chosen
