"""Decision rules that the judge compares: fixed choices, what people do by hand, and searches."""

from __future__ import annotations

import functools
import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from recommender import forecast, rehearsal
from recommender.errors import BudgetExhausted
from recommender.knowledge import grid, prior
from recommender.knowledge.grid import Choice
from recommender.knowledge.prior import Prior
from recommender.knowledge.replay import Bench
from recommender.knowledge.score import score
from recommender.knowledge.table import Record
from recommender.settings import Setting

Generator = np.random.Generator
# Of one study; what was trained before costs nothing, so the budget alone would not end it.
MOST_TRIALS = 200


@dataclass(frozen=True)
class Answer:
    """What a rule advises.

    Attributes:
        choice: The configuration.
        p_beats_default: The chance that it ends below the default's best loss, if the rule says.
        interval: 80 % interval of its best loss over the default's, if the rule says.
    """

    choice: Choice
    p_beats_default: float | None = None
    interval: tuple[float, float] | None = None


class Rule(ABC):
    """One way to choose.

    Attributes:
        name: What the tables call it.
        tier: What it may spend; None for as much as it wants.
        repeats: How often it answers on each task and seed; more than 1 where it draws numbers.
    """

    name: str
    tier: str | None = None
    repeats: int = 1

    def fit(self, records: Sequence[Record]) -> None:  # noqa: B027 (most rules have nothing to learn)
        """Learn from tasks of other families than the one to be judged on."""

    @abstractmethod
    def answer(self, bench: Bench, generator: Generator) -> Answer:
        """Choose, paying for what is looked at."""


class Fixed(Rule):
    """The same configuration whatever the task."""

    def __init__(self, name: str, choice: Choice) -> None:
        self.name = name
        self.choice = choice

    def answer(self, bench: Bench, generator: Generator) -> Answer:
        """The configuration."""
        return Answer(self.choice)


class BestFixed(Rule):
    """The configuration with the lowest mean regret on the other tasks."""

    name = "best single configuration of the other families"

    def fit(self, records: Sequence[Record]) -> None:
        """Find it among those that every task was measured under."""
        common = [c for c in grid.SMALL.choices if c in grid.FULL.choices]
        self._choice = min(common, key=lambda c: mean_regret(records, c))

    def answer(self, bench: Bench, generator: Generator) -> Answer:
        """The configuration."""
        return Answer(self._choice)


class RangeTest(Rule):
    """A learning-rate range test for Adam, then a linear decay from a tenth of the best rate."""

    name = "range test, then linear decay"
    smoothing = 0.9

    def answer(self, bench: Bench, generator: Generator) -> Answer:
        """The nearest rate for which a linear decay was recorded."""
        rates, losses = bench.range_test()
        average, smoothed = 0.0, []
        for i, loss in enumerate(losses):
            if not math.isfinite(loss):
                break
            average = self.smoothing * average + (1 - self.smoothing) * float(loss)
            smoothed.append(average / (1 - self.smoothing ** (i + 1)))
        lowest = int(np.argmin(smoothed)) if smoothed else 0
        offered = [c for c in bench.record.grid.shaped if c.shape == "linear"]
        return Answer(
            min(offered, key=lambda c: _apart(c.setting.learning_rate, rates[lowest] / 10))
        )


class OneEpoch(Rule):
    """Every configuration for one epoch; the best ones go on to the end.

    Args:
        kept: How many go on; with 1 nothing more is trained.
    """

    def __init__(self, kept: int) -> None:
        self.kept = kept
        self.name = "one epoch each, " + (
            "the leader" if kept == 1 else f"the best {kept} to the end"
        )

    def answer(self, bench: Bench, generator: Generator) -> Answer:
        """The best after one epoch, or the best at the end of those that led then."""
        record = bench.record
        share = min(1.0, record.facts["steps_per_epoch"] / record.full_steps)
        # Curves stand at some steps only: the first of them that is not before the epoch's end.
        share = max(share, record.points[0] / record.full_steps)
        at = record.points[record.points >= round(share * record.full_steps) - 0.5][0]
        share = float(at) / record.full_steps
        leading = sorted(record.grid.choices, key=lambda c: _last(bench.curve(c, share)))
        best = leading[: self.kept]
        if self.kept > 1:
            best = sorted(best, key=lambda c: float(np.min(bench.curve(c, 1.0))))
        return Answer(best[0])


class Search(Rule):
    """A search by trainings that are cut off after a share of what may be spent.

    Args:
        tier: What may be spent.
        trials: Trainings of the greatest length that the tier would pay for; fixes that length.
    """

    repeats = 2

    def __init__(self, tier: str, trials: int) -> None:
        self.tier = tier
        self.trials = trials

    def longest(self, bench: Bench) -> float:
        """The greatest length of a training, as a share of the full one."""
        wanted = bench.budget.limit / self.trials / bench.record.full_steps
        least = float(bench.record.points[0]) / bench.record.full_steps
        return min(1.0, max(wanted, least))


class RandomSearch(Search):
    """Configurations at random, all cut off at the same length; the best is taken."""

    def __init__(self, tier: str, trials: int) -> None:
        super().__init__(tier, trials)
        self.name = f"random search, {tier}"

    def answer(self, bench: Bench, generator: Generator) -> Answer:
        """The best of those that could be paid."""
        choices, share = bench.record.grid.choices, self.longest(bench)
        best = Choice(grid.DEFAULT, "constant"), math.inf
        for place in generator.permutation(len(choices)):
            try:
                loss = float(np.min(bench.curve(choices[place], share)))
            except BudgetExhausted:
                break
            if loss < best[1]:
                best = choices[place], loss
        return Answer(best[0])


class Optuna(Search):
    """Optuna's TPE with its Hyperband pruner, on family, rate and schedule."""

    def __init__(self, tier: str, trials: int) -> None:
        super().__init__(tier, trials)
        self.name = f"Optuna TPE + Hyperband, {tier}"

    def answer(self, bench: Bench, generator: Generator) -> Answer:
        """The best value that any trial saw before the budget was spent."""
        import optuna

        optuna.logging.set_verbosity(optuna.logging.ERROR)
        record, longest = bench.record, self.longest(bench)
        stops = [
            p / record.full_steps for p in record.points if p <= longest * record.full_steps + 0.5
        ]
        space = families(record.grid.choices)
        study = optuna.create_study(
            study_name="search",  # Hyperband draws brackets from it; a random name repeats nothing
            sampler=optuna.samplers.TPESampler(seed=int(generator.integers(2**31))),
            pruner=optuna.pruners.HyperbandPruner(min_resource=1, max_resource=len(stops)),
        )
        best = Choice(grid.DEFAULT, "constant"), math.inf
        for _ in range(MOST_TRIALS):
            trial = study.ask()
            choice = _suggested(trial, space)
            try:
                for i, share in enumerate(stops):
                    loss = _last(bench.curve(choice, share))
                    if loss < best[1]:
                        best = choice, loss
                    trial.report(loss if math.isfinite(loss) else 1e30, i + 1)
                    if trial.should_prune():
                        study.tell(trial, state=optuna.trial.TrialState.PRUNED)
                        break
                else:
                    study.tell(trial, min(loss, 1e30))
            except BudgetExhausted:
                break
        return Answer(best[0])


class Recommender(Rule):
    """What the recommender would have answered, with what it learned from the other families.

    Args:
        tier: "instant" trains nothing.
    """

    def __init__(self, tier: str) -> None:
        self.tier = tier
        self.name = f"recommender, {tier}"
        self._seen: dict[str, list[tuple[forecast.Features, float]]] = {}

    def fit(self, records: Sequence[Record]) -> None:
        """Grow a prior, and calibrate the odds on answers about families that it leaves out."""
        self._prior = grown(tuple(records))
        for family in sorted({r.family for r in records if r.name not in self._seen}):
            without = {family: grown(tuple(r for r in records if r.family != family))}
            for record in records:
                if record.family == family:
                    answers = rehearsal.rehearse([record], self.tier, without)
                    self._seen[record.name] = [(a.features, 1 + a.score.excess) for a in answers]
        self._calibration = forecast.calibrate(
            [pair for record in records for pair in self._seen[record.name]]
        )

    def answer(self, bench: Bench, generator: Generator) -> Answer:
        """The decision and its odds."""
        decision = rehearsal.replayed(bench, self._prior, self.tier)
        outlook = self._prior.about(bench.record.facts["description"])
        expected = forecast.forecast(outlook, decision, self.tier, calibration=self._calibration)
        low, _, high = expected.loss_ratio
        return Answer(decision.candidate.choice, expected.p_beats_default, (low, high))


@functools.cache
def grown(records: tuple[Record, ...]) -> Prior:
    """A prior from these tasks; all tiers share it."""
    return prior.grow(records)


class Oracle(Rule):
    """The best of all recorded configurations on one seed, judged on another: nobody can know."""

    name = "oracle"

    def answer(self, bench: Bench, generator: Generator) -> Answer:
        """What was best at full length."""
        choices = bench.record.grid.choices
        return Answer(min(choices, key=lambda c: float(np.min(bench.curve(c, 1.0)))))


def mean_regret(records: Sequence[Record], choice: Choice) -> float:
    """A configuration's regret, mean over tasks where there is anything to gain."""
    found = [score(record, choice, range(record.seeds)).regret for record in records]
    return float(np.nanmean(found))


def families(choices: Sequence[Choice]) -> dict[str, list[Choice]]:
    """The choices by optimizer and its arguments other than the rate."""
    found: dict[str, list[Choice]] = {}
    for choice in choices:
        found.setdefault(choice.setting.rule, []).append(choice)
    return found


def _suggested(trial: Any, space: dict[str, list[Choice]]) -> Choice:
    offered = space[trial.suggest_categorical("family", list(space))]
    shapes = sorted({c.shape for choices in space.values() for c in choices})
    rate = trial.suggest_float("rate", 3e-4, 3e-1, log=True)
    shape = trial.suggest_categorical("shape", shapes)
    # The nearest that was recorded: the shape first, then the rate.
    same = [c for c in offered if c.shape == shape] or offered
    return min(same, key=lambda c: _apart(c.setting.learning_rate, rate))


def _last(curve: np.ndarray) -> float:
    return float(curve[-1])


def _apart(rate: float, other: float) -> float:
    return abs(math.log(rate / other))


def baselines() -> list[Rule]:
    """Every rule that is compared."""
    adam = functools.partial(Setting, "adam")
    return [
        Fixed("Keras' default: Adam 0.001", Choice(grid.DEFAULT, "constant")),
        Fixed("Adam 0.001, cosine", Choice(grid.DEFAULT, "cosine")),
        Fixed("AdamW 0.001, warmup, cosine", Choice(Setting("adamw", 1e-3), "warmup_cosine")),
        *(
            Fixed(f"Adam {rate:g}, late cooldown", Choice(adam(rate), "late_cooldown"))
            for rate in (1e-3, 3e-3, 1e-2)
        ),
        BestFixed(),
        RangeTest(),
        OneEpoch(1),
        OneEpoch(3),
        *(
            search(tier, trials)
            for search in (RandomSearch, Optuna)
            for tier in ("quick", "standard", "thorough")
            for trials in TRIALS
        ),
        *(Recommender(tier) for tier in ("instant", "quick", "standard", "thorough")),
        Oracle(),
    ]


# Searches are given the number of full-length trials that turns out best for them.
TRIALS = (3, 6, 12)
