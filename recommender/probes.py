"""race(...): short trainings of the candidates, the worse half stopped at every rung."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from recommender.budget import Budget
from recommender.errors import BudgetExhausted, ProbeFailed
from recommender.knowledge import grid
from recommender.progress import Progress
from recommender.settings import Setting

# Lengths of the short trainings, as shares of the full one: each is among `grid.HORIZONS`, so that
# the truth table can replay the race. At 1 % probes chose worse than at 2 %, so the tier that can
# afford few waits until then.
RUNGS = {
    "quick": (0.02, 0.04),
    "standard": (0.01, 0.04, 0.16),
    "thorough": (0.01, 0.04, 0.16, 0.5),
}
# Below this full length a tenth of it is too short for a race.
LEAST_STEPS_TO_RACE = 2000
# A shorter training than this tells nothing.
FIRST_STEPS = 40
# One of so many goes on; the tighter tier halves.
KEPT = {"quick": 2, "standard": 3, "thorough": 3}


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


def lengths(tier: str, full_steps: int) -> list[tuple[int, int]]:
    """Length and first cooled step of each rung of a tier that is long enough to tell anything."""
    found = grid.horizons(full_steps)
    pairs = [found[share] for share in RUNGS[tier] if share in found]
    return [pair for pair in pairs if pair[0] >= FIRST_STEPS]


def race(
    population: Raced,
    settings: Sequence[Setting],
    hurdle: Setting,
    budget: Budget,
) -> list[ProbeResult]:
    """Successive halving over short trainings, each with a late cooldown of its own.

    A setting's trunk at constant rate goes on from where it was and a copy of it is cooled down,
    so no step of it is made twice. The hurdle stays in the race as long as somebody is there to
    be compared with it.

    Args:
        population: Trains; its progress hears how the race goes.
        settings: What to try, in order of prior; the hurdle among them.
        hurdle: The setting to beat.
        budget: Where steps are booked; the race ends where the next rung does not fit.

    Returns:
        One result per setting, in the order given.
    """
    progress = population.progress
    rungs: dict[Setting, list[Rung]] = {s: [] for s in settings}
    stopped = dict.fromkeys(settings, "the budget ended before its first rung")
    running, out = list(settings), set[Setting]()
    for length, start in lengths(budget.tier, budget.full_steps):
        if len(running) > 1:
            running = _affordable(population, running, hurdle, (length, start), budget)
        if len(running) < 2:
            break
        failed: dict[Setting, str] = {}
        try:
            for setting in running:
                try:
                    rungs[setting].append(_rung(population, setting, (length, start)))
                except ProbeFailed as error:
                    failed[setting] = str(error)
                else:
                    stopped[setting] = f"went as far as the budget allows: step {length}"
        except BudgetExhausted as error:
            progress.said(str(error))
            break
        finally:
            _leave(population, failed, stopped)
            out |= set(failed)
            running = [s for s in running if s not in failed]
        dropped = _dropped(running, hurdle, {s: rungs[s][-1] for s in running}, budget.tier)
        _leave(population, dropped, stopped)
        out |= set(dropped)
        running = [s for s in running if s not in dropped]
    for setting in settings:
        if setting not in out:
            progress.stopped(setting, stopped[setting])
    return [
        ProbeResult(
            setting,
            tuple(rungs[setting]),
            tuple(population.trunk(setting).losses),
            population.trunk(setting).diverged_at,
            stopped[setting],
        )
        for setting in settings
    ]


def _leave(population: Raced, gone: Mapping[Setting, str], stopped: dict[Setting, str]) -> None:
    for setting, reason in gone.items():
        stopped[setting] = reason
        population.stop(setting)
        population.progress.stopped(setting, reason)


def _rung(population: Raced, setting: Setting, rung: tuple[int, int]) -> Rung:
    found = Rung(rung[0], population.rung(setting, *rung))
    shown = f"{found.loss:.4g}" if math.isfinite(found.loss) else "diverged"
    population.progress.judged(setting, found.step, found.loss)
    population.progress.said(f"step {found.step}: {setting.label} {shown}")
    return found


def _dropped(
    running: Sequence[Setting], hurdle: Setting, shown: Mapping[Setting, Rung], tier: str
) -> dict[Setting, str]:
    """Who goes no further, and why."""
    ordered = sorted(running, key=lambda s: shown[s].loss)
    alive = [s for s in ordered if math.isfinite(shown[s].loss)]
    share = KEPT[tier]
    kept = alive[: max(1, math.ceil(len(running) / share) - (share == 2))]
    if kept == [hurdle]:
        kept = []
    return {
        s: f"place {ordered.index(s) + 1} of {len(ordered)} at step {shown[s].step}"
        if s in alive
        else "diverged"
        for s in running
        if s not in kept and s != hurdle
    }


def _affordable(
    population: Raced,
    running: Sequence[Setting],
    hurdle: Setting,
    rung: tuple[int, int],
    budget: Budget,
) -> list[Setting]:
    """As many of the running ones as the rung's price allows, the hurdle first of all."""
    chosen, price = [], 0.0
    for setting in sorted(running, key=lambda s: s != hurdle):
        price += population.rung_price(setting, *rung)
        if budget.affords(price):
            chosen.append(setting)
    return [s for s in running if s in chosen]
