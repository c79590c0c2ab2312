"""Contest: whether an optimizer that evaluates the loss again beats the race's answer."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import keras
import numpy as np

from recommender import trials
from recommender.candidates import UNKNOWN, Candidate, Fit, apart, hurdle
from recommender.decision import Decision, last_rung
from recommender.description import Description
from recommender.errors import RequestError
from recommender.illnesses import Finding
from recommender.illnesses.no_usable_gradient import NoUsableGradient
from recommender.knowledge import contenders
from recommender.models import has_own_step
from recommender.population import Population
from recommender.probes import ProbeResult, Rung
from recommender.problem import Problem
from recommender.settings import Setting, optimizer_class
from recommender.statistics import paired_difference
from recommender.trials import Trial

# The gradient is of no use where at least this share of the weights has none at any step.
FLAT_SHARE = 0.5
ASKED = "the caller asked for it"


@dataclass(frozen=True)
class Settled:
    """What became of a contest.

    Attributes:
        decision: The race's, or that a trial won.
        candidates: What was tried.
        results: What it showed, as the race's results are: a rung's step is the cost in gradients
            of one training step.
    """

    decision: Decision
    candidates: tuple[Candidate, ...]
    results: tuple[ProbeResult, ...]


def requested(names: Sequence[str]) -> list[Candidate]:
    """The candidates among the caller's wishes that are tried, not raced.

    Raises:
        RequestError: One of them cannot be tried by name.
    """
    return [_requested(name) for name in names if optimizer_class(name).needs != "gradient"]


class Contest:
    """The trials beside one race.

    Args:
        population: The probe engine, after the checks: its problem, account and validation blocks.
        description: The problem's description.
        findings: What the checks found.
        asked: Candidates that the caller wants to be tried.

    Attributes:
        flat: Whether the gradient is of no use.
        candidates: What will be tried, in this order.
    """

    def __init__(
        self,
        population: Population,
        description: Description,
        findings: Sequence[Finding] = (),
        asked: Sequence[Candidate] = (),
    ) -> None:
        self._population = population
        self._budget = population.budget
        self._problem = population.problem
        found_flat = any(f.code == NoUsableGradient.code for f in findings)
        self.flat = found_flat or has_no_gradient(population)
        if self.flat:
            full = contenders.passes(description.to_dict())
            affordable = full * self._budget.remaining / self._budget.full_steps
            found = contenders.gradient_free(description.parameters, affordable)
        elif has_own_step(self._problem.model):
            found = []
        else:
            found = contenders.plausible(
                description.to_dict(), self._budget.tier, least_squares=_squares(self._problem)
            )
        own = [apart(one) for one in found]
        wanted = {c.setting.class_name for c in asked}
        self.candidates = [*asked, *(c for c in own if c.setting.class_name not in wanted)]
        self._depth = description.depth

    @property
    def reserve(self) -> float:
        """What the race has to leave, in gradients of one training step."""
        if not self.candidates:
            return 0.0
        return contenders.RESERVE[self._budget.tier] * self._budget.full_steps

    def settle(self, decision: Decision, results: Sequence[ProbeResult]) -> Settled:
        """Try the candidates one after the other until one has won, with what the race left.

        Args:
            decision: The race's.
            results: The race's; none where it was not run, and then nothing is tried unless the
                gradient is of no use.
        """
        pending = list(self.candidates) if results or self.flat else []
        pool = self.reserve if results else self._budget.remaining
        until = self._budget.spent + min(pool, self._budget.remaining)
        rivals = _rivals(decision, results)
        tried: list[Candidate] = []
        shown: list[ProbeResult] = []
        while pending:
            candidate = pending.pop(0)
            trial = self._trial(candidate, until - self._budget.spent)
            tried.append(replace(candidate, fit=self._fit(trial)))
            shown.append(_as_result(trial))
            if self._wins(trial, rivals):
                decision = self._won(tried[-1], trial, decision, rivals)
                break
        return Settled(decision, (*tried, *pending), tuple(shown))

    def _trial(self, candidate: Candidate, allowance: float) -> Trial:
        hears = self._population.progress
        hears.said(f"trying {candidate.label}")
        trial = trials.run(self._population, candidate.setting, allowance)
        found = trial.best
        loss = "no loss" if found is None else f"{found.loss:.4g} after {found.steps} steps"
        hears.said(f"{candidate.label}: {loss}; {trial.stopped}")
        return trial

    def _wins(self, trial: Trial, rivals: Mapping[str, tuple[float, ...]]) -> bool:
        best = trial.best
        if best is None or (trial.overfits and not self.flat):
            return False
        others = [*rivals.values()] or [trial.points[0].blocks]
        return lowest(best.blocks, others, convex=self._depth == 1 and not self.flat)

    def _fit(self, trial: Trial) -> Fit:
        """How to train with it: as far as the trial was good, or for one full training's cost."""
        if trial.rows != self._problem.training.rows:
            return Fit(trial.rows, self._problem.epochs)
        best = trial.best
        steps = best.steps if best is not None else 1
        if not (trial.converged or trial.overfits) and trial.cost:
            steps = round(trial.points[-1].steps * self._budget.full_steps / trial.cost)
        return Fit(trial.rows, max(1, steps))

    def _won(
        self,
        candidate: Candidate,
        trial: Trial,
        decision: Decision,
        rivals: Mapping[str, tuple[float, ...]],
    ) -> Decision:
        best = trial.points[0] if trial.best is None else trial.best
        batch = "all examples" if trial.rows == self._problem.training.rows else "a minibatch"
        share = best.cost / self._budget.full_steps
        found = f"validation loss {best.loss:.4g} after {best.steps} steps on {batch}"
        reasons = [f"{candidate.label}: {found}, which cost {share:.1%} of a full training."]
        if trial.converged:
            reasons.append(f"It came to its end by itself: {trial.stopped}.")
        reasons += [
            f"{label} was at {float(np.mean(blocks)):.4g} when the race ended."
            for label, blocks in rivals.items()
        ]
        reasons.append(f"It was tried because {candidate.reason}.")
        gap = None
        default = float(np.mean(rivals.get(hurdle().label, [math.nan])))
        if best.loss > 0 and default > 0 and math.isfinite(default):
            gap = math.log(best.loss / default)
        return Decision(candidate, "probe", None, tuple(reasons), gap, decision.share)


def lowest(blocks: Sequence[float], others: Sequence[Sequence[float]], *, convex: bool) -> bool:
    """Whether validation blocks are lower than all others, beyond the noise of the comparison.

    Args:
        blocks: Of the trial at its best.
        others: Of the race's answer, its leader and the default where the race ended.
        convex: Whether the model has one layer of weights, where the loss is convex in nearly all
            cases: then noise does not change where the trial ends, and the mean is enough.
    """
    differences = [paired_difference(blocks, other) for other in others]
    return all(d.gap > 0 and (d.clear or convex) for d in differences)


def has_no_gradient(population: Population) -> bool:
    """Whether most weights never moved in the checks' first steps, which cost nothing more.

    Counted by whole variables: rows of a table that were not looked up are no illness.
    """
    setting = hurdle().setting
    trunk = population.trunk(setting)
    if trunk.step == 0:
        return False
    if trunk.diverged_at is not None:
        # The first loss is a number, its gradient is not.
        return trunk.diverged_at <= 1 and bool(np.isfinite(trunk.losses[0]))
    before = population.trained(population.start(setting))
    after = population.trained(trunk.state)
    still = sum(a.size for a, b in zip(before, after, strict=True) if np.array_equal(a, b))
    return still >= FLAT_SHARE * sum(a.size for a in before)


def _requested(name: str) -> Candidate:
    cls = optimizer_class(name)
    if cls.needs == "dataset":
        raise RequestError(
            f"{cls.__name__} needs passes over all data between its steps, by "
            "keras_gradopt.bind(model, dataset=...); no trial makes them. Leave it out of include.",
            code="needs_bind",
        )
    try:
        rate = float(cls.argument_defaults().get("learning_rate", 1.0))
        setting = Setting(name, rate)
        setting.optimizer()
    except (TypeError, ValueError) as error:
        raise RequestError(
            f"{cls.__name__} cannot be made from its name alone ({error}) and cannot be tried. "
            "Leave it out of include.",
            code="unsupported_optimizer",
        ) from error
    return Candidate(setting, "constant", "trial", UNKNOWN, ASKED)


def _squares(problem: Problem) -> bool:
    losses = keras.tree.flatten(problem.loss)
    return bool(losses) and all(isinstance(one, keras.losses.MeanSquaredError) for one in losses)


def _rivals(decision: Decision, results: Sequence[ProbeResult]) -> dict[str, tuple[float, ...]]:
    """Validation blocks of the answer, the leader and the default where the race ended."""
    _, blocks = last_rung(results)
    if not blocks:
        return {}
    leader = min(blocks, key=lambda s: float(np.mean(blocks[s])))
    default = next((r for r in results if r.setting == hurdle().setting and r.rungs), None)
    found = {leader.label: blocks[leader]}
    answer = decision.candidate.setting
    if answer in blocks:
        found[answer.label] = blocks[answer]
    if default is not None:
        found[hurdle().label] = default.rungs[-1].blocks
    return found


def _as_result(trial: Trial) -> ProbeResult:
    """A trial as the race's results are told: each improvement, at the steps that it cost."""
    rungs: list[Rung] = []
    for point in trial.points:
        if math.isfinite(point.loss) and (not rungs or point.loss < rungs[-1].loss):
            rungs.append(Rung(round(point.cost), point.blocks))
    return ProbeResult(trial.setting, tuple(rungs), (), None, trial.stopped)
