"""decide(...): which candidate to advise, on which grounds, and when the evidence is too weak."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from recommender.candidates import Candidate, best_unprobed
from recommender.probes import ProbeResult
from recommender.settings import Setting
from recommender.standing import standings
from recommender.statistics import paired_difference

# If nobody got further than this from the initial loss, the probes were too short to see anything.
PLATEAU = 0.03

Basis = Literal["probe", "prior"]
Code = Literal[
    "too_few_steps",
    "noise_exceeds_gap",
    "default_leads",
    "plateau_no_signal",
    "budget_exhausted",
    "blocking_finding",
]


@dataclass(frozen=True)
class Decision:
    """What is advised.

    Attributes:
        candidate: The answer.
        basis: "probe" when probes had a say, "prior" when it rests on recorded tasks alone.
        code: What weakens the evidence; None when nothing does.
        reasons: Sentences, the weightiest first; the last says why it was tried.
        gap: Logarithm of the answer's loss over the default's at the longest rung where both
            stood; None where there is none, or losses are not positive.
        share: Length of the longest rung that the answer reached, over the full length.
    """

    candidate: Candidate
    basis: Basis
    code: Code | None
    reasons: tuple[str, ...]
    gap: float | None = None
    share: float = 0.0

    def to_dict(self) -> dict[str, Any]:
        """Basis, code and reasons, ready for JSON."""
        return {"basis": self.basis, "code": self.code, "reasons": list(self.reasons)}


def by_prior(candidates: Sequence[Candidate], code: Code | None, *reasons: str) -> Decision:
    """The answer that recorded tasks alone suggest.

    Args:
        candidates: What may be answered.
        code: Why probes have no say; None where none were asked for.
        reasons: Sentences that come first.
    """
    chosen = best_unprobed(candidates)
    return Decision(chosen, "prior", code, (*reasons, _sentence(chosen)))


def decide(
    candidates: Sequence[Candidate],
    results: Sequence[ProbeResult],
    initial_loss: float,
    full_steps: int,
) -> Decision:
    """Choose among those who reached the last rung, by prior and probe together.

    Args:
        candidates: What may be answered; "default" among them.
        results: The race.
        initial_loss: Validation loss before training.
        full_steps: Length of the full training.

    Returns:
        The decision.
    """
    step, blocks = last_rung(results)
    if step is None:
        reason = "The budget did not last for one comparison."
        return by_prior(candidates, "budget_exhausted", reason)
    means = {s: float(np.mean(b)) for s, b in blocks.items()}
    if min(means.values()) > initial_loss - PLATEAU * abs(initial_loss):
        reason = (
            f"After {step} steps nobody was more than {PLATEAU:.0%} below the initial loss of "
            f"{initial_loss:.4g}: the probes were too short to tell anything."
        )
        return by_prior(candidates, "plateau_no_signal", reason)
    # Of a setting that may be answered in two shapes, the one with the better record.
    answers: dict[Setting, Candidate] = {}
    for candidate in sorted(candidates, key=lambda c: c.prior):
        answers.setdefault(candidate.setting, candidate)
    priors = {s: answers[s].prior for s in means}
    order = list(standings(priors, means, initial_loss, step / full_steps))
    chosen = answers[order[0]]
    code: Code | None = "default_leads" if chosen.role == "default" else None
    if code is None and len(order) > 1:
        difference = paired_difference(blocks[order[0]], blocks[order[1]])
        code = None if difference.clear else "noise_exceeds_gap"
    default = next(c.setting for c in candidates if c.role == "default")
    gap, at = gap_to(results, order[0], default)
    reasons = _reasons(chosen, order, means, step, code, gap, at)
    return Decision(chosen, "probe", code, reasons, gap, step / full_steps)


def last_rung(
    results: Sequence[ProbeResult],
) -> tuple[int | None, dict[Setting, tuple[float, ...]]]:
    """The longest rung where at least two stood and one of them held, and who stood there."""
    at: dict[int, dict[Setting, tuple[float, ...]]] = {}
    for result in results:
        for rung in result.rungs:
            at.setdefault(rung.step, {})[result.setting] = rung.blocks
    for step in sorted(at, reverse=True):
        held = any(np.isfinite(blocks).all() for blocks in at[step].values())
        if len(at[step]) > 1 and held:
            return step, at[step]
    return None, {}


def gap_to(
    results: Sequence[ProbeResult], setting: Setting, default: Setting
) -> tuple[float | None, int | None]:
    """Logarithm of a setting's loss over the default's where both stood last, and the step."""
    losses = {r.setting: {rung.step: rung.loss for rung in r.rungs} for r in results}
    mine, theirs = losses.get(setting, {}), losses.get(default, {})
    both = [s for s in mine if s in theirs]
    if not both:
        return None, None
    a, b = mine[max(both)], theirs[max(both)]
    if not (math.isfinite(a) and math.isfinite(b) and a > 0 and b > 0):
        return None, None
    return math.log(a / b), max(both)


def _reasons(
    chosen: Candidate,
    order: Sequence[Setting],
    means: Mapping[Setting, float],
    step: int,
    code: Code | None,
    gap: float | None,
    at: int | None,
) -> tuple[str, ...]:
    mine = means[chosen.setting]
    leader = min(means, key=means.__getitem__)
    reasons = []
    if leader == chosen.setting:
        reasons.append(
            f"It led the race: validation loss {mine:.4g} after {step} steps and a cooldown."
        )
    else:
        reasons.append(
            f"{leader.label} was lower after {step} steps ({means[leader]:.4g}, it {mine:.4g}), "
            f"but so early that says little, and {chosen.setting.label} ends better on recorded "
            "tasks like this one."
        )
    if gap is not None and at is not None and chosen.role != "default":
        side = "below" if gap < 0 else "above"
        reasons.append(
            f"At step {at} its loss was {abs(math.expm1(gap)):.0%} {side} that of Keras' default."
        )
    if code == "noise_exceeds_gap":
        second = order[1]
        reasons.append(
            f"{second.label} came close ({means[second]:.4g}): the difference is within the noise "
            "of the comparison."
        )
    reasons.append(_sentence(chosen))
    return tuple(reasons)


def _sentence(candidate: Candidate) -> str:
    """Why it is tried; without its label, which takes Keras to make."""
    return f"It was tried because {candidate.reason}."
