"""race(...): short trainings of the candidates, the worse half stopped at every rung."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from recommender.budget import GRADIENT, Budget
from recommender.errors import BudgetExhausted
from recommender.population import Population
from recommender.settings import Setting

# The first rung, as a share of the full length and in steps. At 1 % the recorded tasks' probes
# chose worse than at 2 % (geometric mean loss ratio 0.86 against 0.81), so the tier that can afford
# one rung only waits until then.
FIRST_SHARE, FIRST_STEPS = {"quick": 0.02, "standard": 0.01, "thorough": 0.01}, 60
# A branch cools down over this share of the steps its trunk has made.
COOLDOWN_SHARE = 0.25
# Each rung is that much longer than the one before; the tighter tier halves more gently.
GROWTH = {"quick": 2, "standard": 3, "thorough": 3}
LAST_SHARE = {"quick": 0.04, "standard": 0.1, "thorough": 0.5}


@dataclass(frozen=True)
class Rung:
    """What one candidate showed at one rung.

    Attributes:
        step: Steps its trunk had made.
        blocks: Validation loss after a cooldown, per validation block; infinite if it diverged.
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
        stopped: Why it went no further.
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


def race(
    population: Population,
    settings: Sequence[Setting],
    hurdle: Setting,
    budget: Budget,
) -> list[ProbeResult]:
    """Successive halving over trunks at constant rate, judged after a cooldown of a copy.

    The trunk goes on from where it was, so no step is made twice. The hurdle stays in the race as
    long as somebody is there to be compared with it.

    Args:
        population: The probe engine; its progress hears how the race goes.
        settings: What to try, in order of prior; the hurdle among them.
        hurdle: The setting to beat.
        budget: Where steps are booked; the race ends where the next rung does not fit.

    Returns:
        One result per setting, in the order given.
    """
    full, progress = budget.full_steps, population.progress
    step = max(FIRST_STEPS, round(FIRST_SHARE[budget.tier] * full))
    rungs: dict[Setting, list[Rung]] = {s: [] for s in settings}
    stopped = dict.fromkeys(settings, "the budget ended before its first rung")
    running, out = list(settings), set[Setting]()
    while len(running) > 1 and step <= max(FIRST_STEPS, LAST_SHARE[budget.tier] * full):
        running = _affordable(population, running, hurdle, step, budget)
        if len(running) < 2:
            break
        try:
            for setting in running:
                rungs[setting].append(_rung(population, setting, step))
                stopped[setting] = f"went as far as the budget allows: step {step}"
                loss = rungs[setting][-1].loss
                shown = f"{loss:.4g}" if math.isfinite(loss) else "diverged"
                progress.judged(setting, step, loss)
                progress.said(f"step {step}: {setting.label} {shown}")
        except BudgetExhausted as error:
            progress.said(str(error))
            break
        ordered = sorted(running, key=lambda s: rungs[s][-1].loss)
        alive = [s for s in ordered if math.isfinite(rungs[s][-1].loss)]
        growth = GROWTH[budget.tier]
        kept = alive[: max(1, math.ceil(len(running) / growth) - (growth == 2))]
        for setting in running:
            if setting not in kept and setting != hurdle:
                place = ordered.index(setting) + 1
                diverged = not math.isfinite(rungs[setting][-1].loss)
                stopped[setting] = (
                    "diverged" if diverged else f"place {place} of {len(ordered)} at step {step}"
                )
                progress.stopped(setting, stopped[setting])
                out.add(setting)
        running = [s for s in settings if s in kept or s == hurdle]
        if kept == [hurdle]:
            break
        step *= growth
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


def _affordable(
    population: Population,
    running: Sequence[Setting],
    hurdle: Setting,
    step: int,
    budget: Budget,
) -> list[Setting]:
    """As many of the running ones as the rung's price allows, the hurdle first of all."""
    chosen, price = [], 0.0
    for setting in sorted(running, key=lambda s: s != hurdle):
        ahead = max(0, step - population.trunk(setting).step)
        price += GRADIENT * (ahead + _branch_length(step)) + population.validation_price
        if budget.affords(price):
            chosen.append(setting)
    return [s for s in running if s in chosen]


def _rung(population: Population, setting: Setting, step: int) -> Rung:
    trunk = population.trunk(setting)
    trunk.advance(step, f"rung_{step}")
    state = trunk.cooled(_branch_length(step), f"rung_{step}")
    if state is None:
        return Rung(step, (math.inf,))
    return Rung(step, tuple(float(b) for b in population.validate(state, f"rung_{step}")))


def _branch_length(step: int) -> int:
    return max(3, round(COOLDOWN_SHARE * step))
