"""decide(...): which candidate to advise, on which grounds, and when the evidence is too weak."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from recommender.candidates import Candidate
from recommender.probes import ProbeResult
from recommender.settings import Setting
from recommender.statistics import paired_difference

# Probed at a few per cent of the length, high rates look better than they end. Of all candidates
# that get this share of the leader's gain over the default, the one with the highest prior is
# taken. Chosen on the tasks of knowledge/table.json, which replay.py scores.
ENOUGH_OF_THE_GAIN = 0.6
# A leader must be this much better than the default, beyond twice the standard error.
LEAST_GAIN = 0.04
# If nobody got further than this from the initial loss, the probes were too short to see anything.
PLATEAU = 0.03

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
        basis: "probe" when probes chose it, "prior" when nothing could be compared, "safe" when
            the comparison showed too little.
        code: Why it is not a probed choice; None when it is.
        reasons: Sentences, the weightiest first.
    """

    candidate: Candidate
    basis: Literal["probe", "prior", "safe"]
    code: Code | None
    reasons: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """Basis, code and reasons, ready for JSON."""
        return {"basis": self.basis, "code": self.code, "reasons": list(self.reasons)}


def decide(
    candidates: Sequence[Candidate],
    results: Sequence[ProbeResult],
    initial_loss: float,
) -> Decision:
    """Choose by the deepest rung that a challenger shares with the default.

    Args:
        candidates: What may be answered; "default" and "safe" among them.
        results: The race.
        initial_loss: Validation loss before training.

    Returns:
        The decision.
    """
    safe = next(c for c in candidates if c.role == "safe")
    default = next(c.setting for c in candidates if c.role == "default")
    step, blocks = comparable(results, default)
    if step is None:
        reason = "The budget did not last for one comparison with the default."
        return Decision(safe, "safe", "budget_exhausted", (reason,))
    means = {s: float(np.mean(b)) for s, b in blocks.items()}
    best = min(means.values())
    if best > initial_loss * (1 - PLATEAU):
        reason = (
            f"After {step} steps nobody was more than {PLATEAU:.0%} below the initial loss of "
            f"{initial_loss:.4g}: the probes were too short to tell anything."
        )
        return Decision(safe, "safe", "plateau_no_signal", (reason,))
    challengers = [c for c in candidates if c.role in ("portfolio", "requested")]
    chosen = choose(blocks, default, {c.setting: c.prior for c in challengers})
    if chosen is None:
        leads = means[default] <= best
        gap = 1 - best / means[default]
        reason = (
            f"At step {step} Keras' default led with {means[default]:.4g}."
            if leads
            else f"At step {step} the leader was {gap:.1%} below the default, which is no more "
            "than the noise of the comparison."
        )
        return Decision(safe, "safe", "default_leads" if leads else "noise_exceeds_gap", (reason,))
    candidate = next(c for c in challengers if c.setting == chosen)
    return Decision(candidate, "probe", None, _reasons(candidate, chosen, default, means, step))


def comparable(
    results: Sequence[ProbeResult], default: Setting
) -> tuple[int | None, dict[Setting, tuple[float, ...]]]:
    """The deepest rung where the default and a challenger both stand, and who stood there."""
    at = {r.setting: {rung.step: rung.blocks for rung in r.rungs} for r in results}
    steps = [
        step
        for step in at.get(default, {})
        if any(step in rungs for setting, rungs in at.items() if setting != default)
    ]
    if not steps:
        return None, {}
    deepest = max(steps)
    return deepest, {s: rungs[deepest] for s, rungs in at.items() if deepest in rungs}


def choose(
    blocks: Mapping[Setting, Sequence[float]],
    default: Setting,
    priors: Mapping[Setting, float],
) -> Setting | None:
    """The rule itself, on validation blocks of one rung.

    Args:
        blocks: Validation loss per block of everybody at the rung.
        default: The hurdle.
        priors: Prior of each challenger.

    Returns:
        The challenger to take, or None when nobody clears the hurdle.
    """
    base = float(np.mean(blocks[default]))
    clear = {}
    for setting in priors:
        if setting not in blocks or not np.isfinite(blocks[setting]).all():
            continue
        difference = paired_difference(blocks[setting], blocks[default])
        if difference.clear and difference.relative >= LEAST_GAIN:
            clear[setting] = base - float(np.mean(blocks[setting]))
    if not math.isfinite(base):
        finite = {s: float(np.mean(b)) for s, b in blocks.items() if np.isfinite(b).all()}
        return min((s for s in priors if s in finite), key=finite.__getitem__, default=None)
    if not clear:
        return None
    most = max(clear.values())
    enough = [s for s, gain in clear.items() if gain >= ENOUGH_OF_THE_GAIN * most]
    return max(enough, key=lambda s: priors[s])


def _reasons(
    candidate: Candidate,
    chosen: Setting,
    default: Setting,
    means: Mapping[Setting, float],
    step: int,
) -> tuple[str, ...]:
    gain = 1 - means[chosen] / means[default]
    first = (
        f"After {step} steps and a cooldown its validation loss was {means[chosen]:.4g}, "
        f"{gain:.0%} below the default's {means[default]:.4g}, beyond the noise of the comparison."
    )
    reasons = [first]
    leader = min(means, key=means.__getitem__)
    if leader != chosen:
        reasons.append(
            f"{leader.label} was lower still ({means[leader]:.4g}), but so early high rates look "
            f"better than they end, and {chosen.label} has done better elsewhere."
        )
    reasons.append(f"Tried because it is {candidate.reason}.")
    return tuple(reasons)
