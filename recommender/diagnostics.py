"""diagnose(...): what is wrong before the race, what it left open, and what changes really do."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from typing import Any

from recommender.aftermath import Aftermath
from recommender.budget import GRADIENT
from recommender.description import Description
from recommender.errors import BudgetExhausted
from recommender.illnesses import Evidence, Finding, Illness, Mend, of_moment
from recommender.knowledge import grid
from recommender.measurements import Measurements, Skipped
from recommender.mending import TRIED, Outcome, tried
from recommender.population import Population
from recommender.probes import FIRST_STEPS, ProbeResult, plan
from recommender.problem import Problem
from recommender.settings import Setting

__all__ = [
    "Diagnostics", "Finding", "blocking", "diagnose", "follow_up", "inspect", "inspected",
]  # fmt: skip


@dataclass(frozen=True)
class Diagnostics:
    """What was measured before and after the race.

    Attributes:
        initial_loss: Validation loss at the start; NaN where it was not measured.
        findings: Warnings, blocking ones first.
        range_test: (rate, loss after the test) per rate; infinite where it diverged.
        edge: The smallest rate of the test that diverged; None when none did, or it was not run.
        outcomes: What was proposed against the findings, with its measured effect.
        skipped: Codes of illnesses that were not looked for: checks may cost no more, or the model
            does not allow the measurement.
        measured: The measurements, for whoever goes on; None where nothing was trained.
    """

    initial_loss: float
    findings: tuple[Finding, ...]
    range_test: tuple[tuple[float, float], ...]
    edge: float | None
    outcomes: tuple[Outcome, ...] = ()
    skipped: tuple[str, ...] = ()
    measured: Measurements | None = field(default=None, repr=False, compare=False)

    def to_dict(self) -> dict[str, Any]:
        """The diagnostics as plain data, ready for JSON."""
        return {
            "initial_loss": self.initial_loss if math.isfinite(self.initial_loss) else None,
            "findings": [dataclasses.asdict(f) for f in self.findings],
            "range_test": [
                {"learning_rate": rate, "loss": loss if math.isfinite(loss) else None}
                for rate, loss in self.range_test
            ],
            "divergence_edge": self.edge,
            "not_looked_for": list(self.skipped),
        }


def inspect(problem: Problem, description: Description) -> list[Finding]:
    """Checks that need no training: outputs against the loss, labels, scales, duplicates."""
    return list(inspected(problem, description).findings)


def inspected(problem: Problem, description: Description) -> Diagnostics:
    """The same with what is proposed against them, untested."""
    evidence = Evidence(problem, description)
    findings, mends, _ = _asked(of_moment("data"), evidence)
    outcomes = tuple(Outcome(mend, untried="nothing was trained") for mend in mends)
    return Diagnostics(math.nan, _sorted(findings), (), None, outcomes)


def diagnose(
    problem: Problem,
    description: Description,
    population: Population,
    default: Setting,
    raced: Collection[Setting] = (),
) -> Diagnostics:
    """All checks before the race, as far as their share of the budget goes.

    Args:
        problem: What is trained.
        description: Its description.
        population: The probe engine; its budget pays.
        default: The hurdle; the range test raises its rate.
        raced: What will be raced: first steps of these are made anyway.

    Returns:
        What was seen, and what is proposed against it, untested.
    """
    found = inspected(problem, description)
    if blocking(found.findings):
        return found
    measured = Measurements(population, default, raced)
    evidence = Evidence(problem, description, measured)
    findings, mends, skipped = _asked(of_moment("start"), evidence)
    known = vars(measured)
    return Diagnostics(
        known.get("initial_loss", math.nan),
        _sorted([*found.findings, *findings]),
        tuple(measured.range_test),
        known.get("edge"),
        _proposed([*(o.mend for o in found.outcomes), *mends]),
        tuple(skipped),
        measured,
    )


def follow_up(
    found: Diagnostics,
    description: Description,
    population: Population,
    results: Sequence[ProbeResult],
    setting: Setting,
    told: Callable[[str], None] = lambda text: None,
) -> Diagnostics:
    """What the race has shown, and the measured effect of what is proposed.

    Args:
        found: What was seen before the race.
        description: Of the problem.
        population: The race's engine; what remains of its budget pays.
        results: The race; empty where there was none.
        setting: The advised optimizer and rate, under which changes are tested.
        told: Hears each outcome.

    Returns:
        The diagnostics with further findings and the outcomes.
    """
    problem, findings, skipped = population.problem, [*found.findings], [*found.skipped]
    mends = [o.mend for o in found.outcomes]
    if found.measured is not None and any(r.rungs for r in results):
        measured = found.measured
        race = Aftermath(
            population, results, measured.default, found.initial_loss, measured.allowance
        )
        evidence = Evidence(problem, description, measured, race)
        late, more, unseen = _asked(of_moment("race"), evidence)
        findings, mends, skipped = [*findings, *late], [*mends, *more], [*skipped, *unseen]
    mends = [o.mend for o in _proposed(mends)]
    own = next((r for r in results if r.setting == setting), None)
    known = {r.step: r.blocks for r in own.rungs} if own else {}
    length = _length(population, sum(m.testable for m in mends), known)
    outcomes = tried(
        problem, mends, setting, length, population.budget,
        unchanged=known.get(length[0]) if length else None, told=told,
    )  # fmt: skip
    return dataclasses.replace(
        found,
        findings=_sorted(findings),
        outcomes=tuple(outcomes),
        skipped=tuple(skipped),
    )


def _length(population: Population, mends: int, known: Collection[int]) -> tuple[int, int] | None:
    """The longest of the race's rungs at which as many tests fit as the tier makes."""
    budget = population.budget
    wanted = min(TRIED[budget.tier], mends)
    if not wanted:
        return None
    pairs = [(stage.steps, stage.cooled_from) for stage in plan(budget.tier, budget.full_steps)]
    pairs = pairs or [(FIRST_STEPS, FIRST_STEPS - round(grid.COOLDOWN * FIRST_STEPS))]
    for tests in range(wanted, 0, -1):
        for pair in reversed(pairs):
            each = GRADIENT * pair[0] + population.validation_price
            if budget.affords(tests * each + (0 if pair[0] in known else each)):
                return pair
    return None


def _asked(
    illnesses: Sequence[Illness], evidence: Evidence
) -> tuple[list[Finding], list[Mend], list[str]]:
    """Findings and mends, and the codes of what could not be looked for; ends at a blocking one."""
    findings: list[Finding] = []
    mends: list[Mend] = []
    skipped: list[str] = []
    for illness in illnesses:
        if illness.plain and not evidence.plain:
            continue
        try:
            seen = illness.examine(evidence)
        except Skipped:
            skipped.append(illness.code)
            continue
        except BudgetExhausted:
            findings.append(
                Finding("checks_cut_short", "The budget ended before all checks were made.")
            )
            break
        if seen is not None:
            if not illness.hint:
                findings.append(seen)
            mends.extend(illness.mends(evidence, seen))
            if seen.blocking and illness.moment != "data":
                break  # whatever else would be seen would be about the fault
    return findings, mends, skipped


def _proposed(mends: Sequence[Mend]) -> tuple[Outcome, ...]:
    """Each change once: several illnesses may ask for the same."""
    once = {mend.change: mend for mend in reversed(mends)}
    return tuple(
        Outcome(mend, untried="nothing was trained") for mend in reversed(list(once.values()))
    )


def _sorted(findings: Sequence[Finding]) -> tuple[Finding, ...]:
    return tuple(sorted(findings, key=lambda f: not f.blocking))


def blocking(findings: Sequence[Finding]) -> list[Finding]:
    """The findings that have to be mended first."""
    return [f for f in findings if f.blocking]
