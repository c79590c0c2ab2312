"""forecast(...): what became of decisions on the same grounds on tasks measured before."""

from __future__ import annotations

import dataclasses
import functools
import math
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from recommender.candidates import Candidate, blind_choice, hurdle, propose
from recommender.decision import Decision, decide
from recommender.knowledge.grid import Choice
from recommender.knowledge.replay import Bench, RecordedPopulation
from recommender.knowledge.score import score
from recommender.knowledge.table import Record, truth
from recommender.probes import LEAST_STEPS_TO_RACE, race

Basis = Literal["probe", "prior", "safe"]

# What `diagnostics.diagnose` trains, in gradient evaluations.
DIAGNOSIS = 64.0


@dataclass(frozen=True)
class Outcome:
    """One recorded task under the present rule.

    Attributes:
        task: Its name.
        basis: On which grounds the rule decided there.
        answer: What it answered.
        loss_ratio: Best validation loss over the default's (1 + `Score.excess`, which may
            fall below 0 where losses pass through it); below 1 is better.
        time_ratio: Steps to the default's best loss over the default's own; infinite is never.
    """

    task: str
    basis: Basis
    answer: str
    loss_ratio: float
    time_ratio: float


@dataclass(frozen=True)
class Forecast:
    """What to expect, from recorded tasks on which the rule decided on the same grounds.

    Attributes:
        tasks: How many there were.
        p_beats_default: Share of them that ended below the default's best loss, with one success
            and one failure added.
        loss_ratio: 10 %, 50 % and 90 % quantile of the best loss over the default's.
        time_ratio: Median steps to the default's best loss over the default's own; infinite when
            more than half never got there.
        confidence: "high", "medium" or "low".
    """

    tasks: int
    p_beats_default: float
    loss_ratio: tuple[float, float, float]
    time_ratio: float
    confidence: Literal["high", "medium", "low"]

    def to_dict(self) -> dict[str, Any]:
        """The forecast as plain data, ready for JSON."""
        data = dataclasses.asdict(self)
        data["loss_ratio"] = list(self.loss_ratio)
        data["time_ratio"] = self.time_ratio if math.isfinite(self.time_ratio) else None
        data["basis"] = (
            "recorded tasks, probed on one seed and judged on another; parts of the rule were "
            "chosen on some of them"
        )
        return data


def forecast(basis: Basis, *, synthetic: bool = False) -> Forecast:
    """The record of decisions made on these grounds.

    Args:
        basis: Grounds of the decision at hand.
        synthetic: Whether probes ran on data drawn from a description; the odds are then pulled
            half-way to even, and the interval doubled.

    Returns:
        The forecast.
    """
    outcomes = tuple(o for o in replay() if o.basis == basis)
    if basis == "prior":
        outcomes = blind_record()
    wins = sum(o.loss_ratio < 1 - 1e-9 for o in outcomes)
    p = (wins + 1) / (len(outcomes) + 2)
    ratios = [o.loss_ratio for o in outcomes] or [1.0]
    low, middle, high = (float(q) for q in np.quantile(ratios, [0.1, 0.5, 0.9]))
    if synthetic:
        p = (p + 0.5) / 2
        low, high = middle - 2 * (middle - low), middle + 2 * (high - middle)
    time = float(np.median([o.time_ratio for o in outcomes] or [1.0]))
    label: Literal["high", "medium", "low"] = (
        "high" if p >= 0.9 else "medium" if p >= 0.75 else "low"
    )
    return Forecast(len(outcomes), p, (low, middle, high), time, label)


@functools.cache
def replay() -> tuple[Outcome, ...]:
    """The present rule on every recorded task: probed on one seed, judged on another."""
    return tuple(
        _outcome(record, decision.candidate, decision.basis)
        for record in truth().values()
        for decision in [replayed(Bench(record, 0, "quick"))]
    )


@functools.cache
def blind_record() -> tuple[Outcome, ...]:
    """The choice without probes on every recorded task."""
    return tuple(_outcome(record, blind_choice(), "prior") for record in truth().values())


def replayed(bench: Bench) -> Decision:
    """What the rule would have answered, had it seen a recorded task for the first time.

    Args:
        bench: The task; its tier is the rule's.
    """
    record, tier = bench.record, bench.budget.tier
    if record.full_steps < LEAST_STEPS_TO_RACE and tier == "quick":
        return Decision(blind_choice(), "prior", "too_few_steps", ())
    measured = [
        c for c in propose(record.facts["description"]["tags"], tier)
        if c.setting in record.grid.trunks
    ]  # fmt: skip
    bench.budget.spend("diagnosis", DIAGNOSIS + record.validation_price)
    settings = list(dict.fromkeys(c.setting for c in measured))
    results = race(RecordedPopulation(bench), settings, hurdle().setting, bench.budget)
    decision = decide(measured, results, float(record.arrays["initial"][bench.seed].mean()))
    if decision.code == "budget_exhausted":
        return Decision(blind_choice(), "prior", "budget_exhausted", ())
    return decision


def _outcome(record: Record, answer: Candidate, basis: Basis) -> Outcome:
    found = score(record, Choice(answer.setting, answer.shape), range(1, record.seeds))
    return Outcome(record.name, basis, answer.label, 1 + found.excess, found.time_ratio)
