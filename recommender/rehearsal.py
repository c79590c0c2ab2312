"""The whole rule on recorded tasks: what it answers where it has not seen the family before.

python -m recommender.rehearsal        grows knowledge/prior.npz and knowledge/odds.json
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from recommender.candidates import hurdle, propose
from recommender.decision import Decision, by_prior, decide
from recommender.forecast import Features, calibrate, features
from recommender.knowledge import ODDS, prior
from recommender.knowledge.prior import Prior
from recommender.knowledge.replay import Bench, RecordedPopulation
from recommender.knowledge.score import Score, penalty, score
from recommender.knowledge.table import Record, truth
from recommender.probes import LEAST_STEPS_TO_RACE, race, width

TIERS = ("instant", "quick", "standard", "thorough")
# What `diagnostics.diagnose` trains, in gradient evaluations, and at most as a share of a training.
DIAGNOSIS = 110.0
DIAGNOSIS_SHARE = {"quick": 0.02, "standard": 0.06, "thorough": 0.06}
# An excess loss beyond this is harm.
HARM = 0.01


@dataclass(frozen=True)
class Rehearsed:
    """One answer on a recorded task.

    Attributes:
        record: The task.
        decision: What the rule answered, shown one seed.
        features: What its odds are read from.
        score: What the answer came to on the other seeds.
        cost: What it took, in full trainings.
    """

    record: Record
    decision: Decision
    features: Features
    score: Score
    cost: float


def replayed(bench: Bench, known: Prior, tier: str) -> Decision:
    """What the rule would have answered, had it met this task with that knowledge.

    Args:
        bench: The task; its account pays.
        known: A prior.
        tier: "instant" trains nothing.
    """
    record = bench.record
    outlook = known.about(record.facts["description"])
    steps = record.full_steps
    measured = [c for c in propose(outlook) if c.setting in record.grid.trunks]
    if tier == "instant":
        return by_prior(measured, None)
    bench.budget.spend(
        "diagnosis",
        min(DIAGNOSIS, DIAGNOSIS_SHARE[tier] * steps - 2 * record.validation_price)
        + record.validation_price,
    )
    if steps < LEAST_STEPS_TO_RACE and tier == "quick":
        return by_prior(measured, "too_few_steps")
    settings = list(dict.fromkeys(c.setting for c in measured))[: width(tier, steps)]
    raced = [c for c in measured if c.setting in settings]
    priors = {s: min(c.prior for c in raced if c.setting == s) for s in settings}
    initial = float(record.arrays["initial"][bench.seed].mean())
    results = race(RecordedPopulation(bench), priors, hurdle().setting, initial, bench.budget)
    return decide(raced, results, initial, steps)


def rehearse(tasks: Iterable[Record], tier: str, without: dict[str, Prior]) -> list[Rehearsed]:
    """The rule on every seed of these tasks.

    Args:
        tasks: What to answer on.
        tier: What may be spent.
        without: For each family, a prior that has not seen it.
    """
    found = []
    for record in tasks:
        known = without[record.family]
        for seed in range(record.seeds):
            bench = Bench(record, seed, None if tier == "instant" else tier)
            decision = replayed(bench, known, tier)
            outlook = known.about(record.facts["description"])
            others = [s for s in range(record.seeds) if s != seed]
            judged = score(record, decision.candidate.choice, others)
            seen = features(outlook, decision)
            found.append(Rehearsed(record, decision, seen, judged, bench.spent))
    return found


def outcomes(seen: Sequence[Rehearsed]) -> dict[str, dict[str, float]]:
    """What a tier's answers came to, on tasks that are long enough for a race and on the others.

    Args:
        seen: Answers of one tier; some of each kind.

    Returns:
        For "long" and "short": how many tasks; the median loss over the default's; on which share
        the answer was better, and on which worse by more than 1 %; the mean `score.penalty`; the
        mean cost in full trainings.
    """
    kinds: dict[str, list[Rehearsed]] = {"long": [], "short": []}
    for one in seen:
        kinds["long" if one.record.full_steps >= LEAST_STEPS_TO_RACE else "short"].append(one)
    found = {}
    for kind, answers in kinds.items():
        excess = np.array([one.score.excess for one in answers])
        figures = {
            "loss_ratio": 1 + np.median(excess),
            "better": np.mean(excess < 0),
            "worse": np.mean(excess > HARM),
            "penalty": np.mean([penalty(one.record, one.score) for one in answers]),
            "cost": np.mean([one.cost for one in answers]),
        }
        tasks = {one.record.name for one in answers}
        found[kind] = {"tasks": len(tasks)} | {k: round(float(v), 4) for k, v in figures.items()}
    return found


def leaving_out(records: Sequence[Record]) -> dict[str, Prior]:
    """For each family a prior that has not seen it."""
    return {
        family: prior.grow([r for r in records if r.family != family])
        for family in sorted({r.family for r in records})
    }


def main() -> None:
    """Grow the shipped prior, and the calibration and record of every tier."""
    records = list(truth().values())
    prior.save(prior.grow(records))
    without = leaving_out(records)
    found = {}
    for tier in TIERS:
        seen = rehearse(records, tier, without)
        pairs = [(one.features, 1 + one.score.excess) for one in seen]
        found[tier] = dataclasses.asdict(calibrate(pairs)) | {"record": outcomes(seen)}
    ODDS.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
