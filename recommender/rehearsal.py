"""The whole rule on recorded tasks: what it answers where it has not seen the family before.

python -m recommender.rehearsal        grows knowledge/prior.npz and knowledge/odds.json
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from recommender.candidates import hurdle, propose
from recommender.decision import Decision, by_prior, decide
from recommender.forecast import Features, calibrate, features
from recommender.knowledge import ODDS, prior
from recommender.knowledge.prior import Prior
from recommender.knowledge.replay import Bench, RecordedPopulation
from recommender.knowledge.score import Score, score
from recommender.knowledge.table import Record, truth
from recommender.probes import LEAST_STEPS_TO_RACE, race, width

TIERS = ("instant", "quick", "standard", "thorough")
# What `diagnostics.diagnose` trains, in gradient evaluations, and at most as a share of a training.
DIAGNOSIS = 110.0
DIAGNOSIS_SHARE = {"quick": 0.02, "standard": 0.06, "thorough": 0.06}


@dataclass(frozen=True)
class Rehearsed:
    """One answer on a recorded task.

    Attributes:
        record: The task.
        decision: What the rule answered, shown one seed.
        features: What its odds are read from.
        score: What the answer came to on the other seeds.
    """

    record: Record
    decision: Decision
    features: Features
    score: Score


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
            decision = replayed(
                Bench(record, seed, None if tier == "instant" else tier), known, tier
            )
            outlook = known.about(record.facts["description"])
            others = [s for s in range(record.seeds) if s != seed]
            judged = score(record, decision.candidate.choice, others)
            found.append(Rehearsed(record, decision, features(outlook, decision), judged))
    return found


def leaving_out(records: Sequence[Record]) -> dict[str, Prior]:
    """For each family a prior that has not seen it."""
    return {
        family: prior.grow([r for r in records if r.family != family])
        for family in sorted({r.family for r in records})
    }


def main() -> None:
    """Grow the shipped prior and the calibration of every tier."""
    records = list(truth().values())
    prior.save(prior.grow(records))
    without = leaving_out(records)
    found = {}
    for tier in TIERS:
        seen = rehearse(records, tier, without)
        pairs = [(one.features, 1 + one.score.excess) for one in seen]
        found[tier] = dataclasses.asdict(calibrate(pairs))
    ODDS.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
