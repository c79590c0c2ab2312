"""Scores decision rules on the truth table, family by family."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from benchmarks.parts.rules import Answer, Rule
from recommender.knowledge import grid
from recommender.knowledge.replay import Bench
from recommender.knowledge.score import Score, score, worthwhile
from recommender.knowledge.table import Record

# Shares of all families whose hash falls below this are the test part.
TEST_SHARE = 0.3
# Time ratios beyond this count as this where a mean is taken.
CAP = 4.0
HARM, CATASTROPHE = 0.01, 0.05
RESAMPLES = 2000
QUICK_STEPS = 6000

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Outcome:
    """One answer of a rule, judged by a training that it has not seen.

    Attributes:
        record: The task.
        answer: What was advised.
        score: What that came to.
        cost: What choosing cost, as a fraction of one full training.
    """

    record: Record
    answer: Answer
    score: Score
    cost: float


def is_test(record: Record) -> bool:
    """Whether a task's family belongs to the part that is scored once for each release."""
    digest = hashlib.sha256(record.family.encode()).digest()
    return int.from_bytes(digest[:4], "big") < TEST_SHARE * 2**32


def judged(
    rule: Rule,
    tasks: Sequence[Record],
    known: Sequence[Record],
    tell: Callable[[str], Any] = lambda name: None,
) -> list[Outcome]:
    """Every answer of a rule; it learns only from families other than the task's.

    Args:
        rule: Who answers.
        tasks: What it is judged on.
        known: What it may learn from, less the family at hand.
        tell: Is called with the name of the task at hand.
    """
    found = []
    for family in sorted({record.family for record in tasks}):
        rule.fit([record for record in known if record.family != family])
        for record in tasks:
            if record.family == family:
                tell(record.name)
                found.extend(_answers(rule, record))
    return found


def _answers(rule: Rule, record: Record) -> Iterable[Outcome]:
    for seed in range(record.seeds):
        others = [s for s in range(record.seeds) if s != seed]
        for repeat in range(rule.repeats):
            # Not hash(): that differs from run to run.
            name = int.from_bytes(hashlib.sha256(record.name.encode()).digest()[:4], "big")
            generator = np.random.default_rng([name, seed, repeat])
            bench = Bench(record, seed, rule.tier)
            answer = rule.answer(bench, generator)
            yield Outcome(record, answer, score(record, answer.choice, others), bench.spent)


def figures(outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """The metrics of one rule, with 95 % intervals from resampled tasks.

    Returns:
        By name a list [value, low, high]; "tasks", "gainful" (tasks with anything to gain),
        "cost" and "highest_cost" are plain numbers. "brier", "coverage" and "width" are there
        only where the rule states odds.
    """
    by_task: dict[str, list[Outcome]] = {}
    for outcome in outcomes:
        by_task.setdefault(outcome.record.name, []).append(outcome)
    groups = list(by_task.values())
    found: dict[str, Any] = {
        "tasks": len(groups),
        "gainful": sum(worthwhile(group[0].record) for group in groups),
        "cost": float(np.mean([o.cost for o in outcomes])),
        "highest_cost": float(np.max([o.cost for o in outcomes])),
    }
    excess = _per_task(groups, lambda o: min(o.score.excess, CAP))
    times = _per_task(groups, lambda o: math.log(min(o.score.time_ratio, CAP)))
    stretched = _per_task(groups, lambda o: math.log(min(o.score.stretched_ratio, CAP)))
    regrets = _per_task(groups, lambda o: o.score.regret)
    regrets = regrets[~np.isnan(regrets)]
    found["mean_regret"] = _with_interval(regrets, np.mean)
    found["median_regret"] = _with_interval(regrets, np.median)
    found["median_excess"] = _with_interval(excess, np.median)
    found["time_ratio"] = _exponential(_with_interval(times, np.mean))
    found["stretched_ratio"] = _exponential(_with_interval(stretched, np.mean))
    for name, limit in (("within_half", 0.5), ("within_three_quarters", 0.75), ("faster", 1.0)):
        share = _per_task(groups, lambda o, at=limit: _within(o.score.time_ratio, at))
        found[name] = _with_interval(share, np.mean)
        share = _per_task(groups, lambda o, at=limit: _within(o.score.stretched_ratio, at))
        found[f"stretched_{name}"] = _with_interval(share, np.mean)
    found["better"] = _with_interval(_per_task(groups, lambda o: o.score.excess < 0), np.mean)
    found["net_saving"] = _with_interval(_per_task(groups, _net_saving), np.median)
    found["harm"] = _with_interval((excess > HARM).astype(float), np.mean)
    found["catastrophe"] = _with_interval((excess > CATASTROPHE).astype(float), np.mean)
    return found | _calibration(groups)


def _calibration(groups: Sequence[Sequence[Outcome]]) -> dict[str, Any]:
    """How true the odds were that a rule stated; none if it states none."""
    stated = [g for g in groups if all(o.answer.p_beats_default is not None for o in g)]
    if not stated:
        return {}
    brier = _per_task(stated, lambda o: (o.answer.p_beats_default - (o.score.excess < 0)) ** 2)
    inside = _per_task(stated, _covered)
    width = _per_task(stated, lambda o: o.answer.interval[1] - o.answer.interval[0])
    return {
        "brier": _with_interval(brier, np.mean),
        "coverage": _with_interval(inside, np.mean),
        "width": _with_interval(width, np.median),
    }


def reliability(outcomes: Sequence[Outcome]) -> list[dict[str, float]]:
    """Stated chance against what happened, in five bins; "n" counts answers."""
    stated = [o for o in outcomes if o.answer.p_beats_default is not None]
    found = []
    for low in np.arange(0, 1, 0.2):
        inside = [
            o for o in stated if low <= o.answer.p_beats_default < low + 0.2 + 1e-9 * (low > 0.7)
        ]
        if inside:
            found.append(
                {
                    "stated": float(np.mean([o.answer.p_beats_default for o in inside])),
                    "happened": float(np.mean([o.score.excess < 0 for o in inside])),
                    "n": len(inside),
                }
            )
    return found


def _covered(outcome: Outcome) -> bool:
    low, high = outcome.answer.interval or (math.nan, math.nan)
    return low <= 1 + outcome.score.excess <= high


def _net_saving(outcome: Outcome) -> float:
    """1 - (cost + length to the default's best loss) / one full training; at least -2."""
    record = outcome.record
    length = outcome.score.time_ratio * record.default_steps / record.full_steps
    return max(-2.0, 1 - outcome.cost - length)


def _within(ratio: float, limit: float) -> bool:
    return ratio <= limit if limit < 1 else ratio < limit


def _per_task(groups: Sequence[Sequence[Outcome]], value: Callable[[Outcome], float]) -> Array:
    """The mean over a task's answers; the task is the unit."""
    return np.array([np.mean([value(o) for o in group]) for group in groups], np.float64)


def _with_interval(values: Array, statistic: Callable[..., Any]) -> list[float]:
    if not len(values):
        return [math.nan] * 3
    middle = float(statistic(values))
    if np.all(values == values[0]):
        return [middle] * 3
    found = stats.bootstrap(
        (values,), statistic, n_resamples=RESAMPLES, method="percentile",
        rng=np.random.default_rng(0),
    ).confidence_interval  # fmt: skip
    return [middle, float(found.low), float(found.high)]


def _exponential(values: Sequence[float]) -> list[float]:
    return [math.exp(v) for v in values]


def duel(ours: Sequence[Outcome], theirs: Sequence[Outcome]) -> dict[str, Any]:
    """On how many tasks one rule's mean loss is below another's.

    Returns:
        "tasks", "lower" and "higher" (counts; the rest are equal), "share" of the tasks that are
        not equal where it is lower, and "p", of a two-sided sign test; the same with "gainful_" in
        front for tasks with something to gain.
    """
    found: dict[str, Any] = {}
    sides = [_by_task(outcomes) for outcomes in (ours, theirs)]
    for prefix, keep in (("", lambda r: True), ("gainful_", worthwhile)):
        names = [n for n, group in sides[0].items() if n in sides[1] and keep(group[0].record)]
        gaps = [
            float(np.mean([min(o.score.excess, CAP) for o in sides[0][n]])
                  - np.mean([min(o.score.excess, CAP) for o in sides[1][n]]))
            for n in names
        ]  # fmt: skip
        lower, higher = sum(g < 0 for g in gaps), sum(g > 0 for g in gaps)
        found[f"{prefix}tasks"] = len(names)
        found[f"{prefix}lower"], found[f"{prefix}higher"] = lower, higher
        if lower + higher:
            found[f"{prefix}share"] = lower / (lower + higher)
            found[f"{prefix}p"] = float(stats.binomtest(lower, lower + higher).pvalue)
    return found


def _by_task(outcomes: Sequence[Outcome]) -> dict[str, list[Outcome]]:
    found: dict[str, list[Outcome]] = {}
    for outcome in outcomes:
        found.setdefault(outcome.record.name, []).append(outcome)
    return found


def profile(
    outcomes: Sequence[Outcome], ratios: Sequence[float], *, stretched: bool = False
) -> Array:
    """Share of tasks that reach the default's best loss within each of these time ratios."""
    by_task: dict[str, list[float]] = {}
    for o in outcomes:
        ratio = o.score.stretched_ratio if stretched else o.score.time_ratio
        by_task.setdefault(o.record.name, []).append(ratio)
    middles = [float(np.median(r)) for r in by_task.values()]
    return np.array([np.mean([m <= at for m in middles]) for at in ratios])


# ---------------------------------------------------------------------- what probes are worth


def fidelity(records: Sequence[Record]) -> list[dict[str, Any]]:
    """How well short trainings foretell full ones, by their length.

    Of the trunks of each task with something to gain: Spearman's correlation of the loss of a short
    training on one seed with the best loss of the full one (late cooldown) on the other; the regret
    of taking the leader, the best of the leading three, and the best of the leading quarter; and
    how often the best of all was in that quarter. "annealed" trainings are cooled down at their
    end, "truncated" ones are cut off from a constant rate after as many steps.
    """
    found = []
    for share in grid.HORIZONS[:-1]:
        for kind in ("annealed", "truncated"):
            rows = [
                row
                for record in records
                if worthwhile(record) and share in grid.horizons(record.full_steps)
                for seed in range(record.seeds)
                if (row := _foretold(record, seed, share, annealed=kind == "annealed")) is not None
            ]
            if rows:
                means = {name: float(np.nanmean([r[name] for r in rows])) for name in rows[0]}
                found.append({"share": share, "kind": kind, "tasks": len(rows) / 2, **means})
    return found


def _foretold(
    record: Record, seed: int, share: float, *, annealed: bool
) -> dict[str, float] | None:
    trunks = record.grid.trunks
    other = (seed + 1) % record.seeds
    final = np.array([np.min(record.curve(grid.Choice(s, "late_cooldown"), other)) for s in trunks])
    if annealed:
        branches = record.arrays["branches"][seed, :, grid.HORIZONS.index(share)]
        early = branches.mean(axis=-1)
    else:
        length = grid.horizons(record.full_steps)[share][0]
        at = int(np.searchsorted(record.points, length, side="right")) - 1
        if at < 0:
            return None
        early = record.arrays["validation"][seed, :, at]
    order = np.argsort(early, kind="stable")
    quarter = order[: math.ceil(len(trunks) / 4)]
    span = record.target - final.min()
    scale = span if span > 0 else math.nan

    def regret(places: Array) -> float:
        return float(np.clip((final[places].min() - final.min()) / scale, 0, 3))

    # Ranks take the diverged ones as equally last.
    ranks = stats.spearmanr(np.minimum(early, 1e30), np.minimum(final, 1e30)).statistic
    return {
        "spearman": float(ranks),
        "leader": regret(order[:1]),
        "best_of_three": regret(order[:3]),
        "best_of_quarter": regret(quarter),
        "recall": float(int(np.argmin(final)) in quarter),
    }
