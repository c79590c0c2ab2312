"""forecast(...): what to expect of a decision, from what became of such decisions elsewhere."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from recommender.decision import Decision
from recommender.knowledge import odds
from recommender.knowledge.prior import Outlook, quantiles

# Quantiles that are stated: together an 80 % interval.
LOW, MIDDLE, HIGH = 0.1, 0.5, 0.9
# Losses over the default's below this count as this in logarithms (likelihoods may change sign).
LEAST_RATIO = 0.02


@dataclass(frozen=True)
class Forecast:
    """What to expect.

    Attributes:
        tasks: Recorded tasks behind it.
        p_beats_default: Chance that the best validation loss falls below the default's.
        loss_ratio: 10 %, 50 % and 90 % quantile of the best loss over the default's.
        time_ratio: Median steps to the default's best loss over the default's own; infinite when
            more than half of the recorded tasks never got there.
        confidence: "high" from 0.9 on, "medium" from 0.75, else "low".
    """

    tasks: int
    p_beats_default: float
    loss_ratio: tuple[float, float, float]
    time_ratio: float
    confidence: Literal["high", "medium", "low"]

    def to_dict(self) -> dict[str, Any]:
        """The forecast as plain data, ready for JSON."""
        data = dict(vars(self))
        data["loss_ratio"] = list(self.loss_ratio)
        data["time_ratio"] = self.time_ratio if math.isfinite(self.time_ratio) else None
        data["basis"] = (
            "recorded tasks, those most like this one first; calibrated by leaving out one family "
            "of tasks at a time"
        )
        return data


@dataclass(frozen=True)
class Features:
    """What the odds of a decision are read from.

    Attributes:
        share: Weight of recorded tasks where this choice beat the default, in (0, 1).
        middle: Median logarithm of its loss over the default's there.
        spread: Half the width of the 80 % interval of the same, at least 0.005.
        gap: `Decision.gap`, 0 where there is none.
    """

    share: float
    middle: float
    spread: float
    gap: float


@dataclass(frozen=True)
class Calibration:
    """How such features have turned out, for one tier.

    Attributes:
        chance: Intercept and slopes (log odds of `share`, the corrected middle) of the log odds.
        middle: Intercept and slopes (`middle`, `gap`) of the logarithm of the loss ratio.
        below, above: What 80 % intervals reach below and above the corrected middle, in spreads.
    """

    chance: tuple[float, float, float]
    middle: tuple[float, float, float]
    below: float
    above: float


def features(outlook: Outlook, decision: Decision) -> Features:
    """Read the recorded outcomes of the advised choice."""
    choice = decision.candidate.choice
    if choice not in outlook.prior.by_choice:
        return Features(0.5, 0.0, 0.5, decision.gap or 0.0)
    found, weights = outlook.outcomes(choice)
    logs = np.log(np.maximum(1 + found.excess, LEAST_RATIO))
    low, middle, high = quantiles(logs, weights, (LOW, MIDDLE, HIGH), found.by_excess)
    share = float(weights[found.excess < 0].sum())
    spread = max((min(high, 2.0) - low) / 2, 0.005)
    return Features(min(max(share, 0.02), 0.98), middle, spread, decision.gap or 0.0)


def forecast(
    outlook: Outlook,
    decision: Decision,
    tier: str,
    *,
    synthetic: bool = False,
    calibration: Calibration | None = None,
) -> Forecast:
    """What to expect of a decision.

    Args:
        outlook: Recorded tasks as seen from this one.
        decision: What is advised.
        tier: What was spent on it.
        synthetic: Whether probes ran on data drawn from a description; the odds are then pulled
            half-way to even, and the interval doubled.
        calibration: How such decisions have turned out; None is the shipped one.

    Returns:
        The forecast.
    """
    found = calibration or shipped(tier if decision.basis == "probe" else "instant")
    seen = features(outlook, decision)
    middle = found.middle[0] + found.middle[1] * seen.middle + found.middle[2] * seen.gap
    low, high = middle - found.below * seen.spread, middle + found.above * seen.spread
    odds_of_share = math.log(seen.share / (1 - seen.share))
    p = 1 / (1 + math.exp(-(found.chance[0] + found.chance[1] * odds_of_share
                            + found.chance[2] * middle)))  # fmt: skip
    if synthetic:
        p = (p + 0.5) / 2
        low, high = middle - 2 * (middle - low), middle + 2 * (high - middle)
    time = math.inf
    if decision.candidate.choice in outlook.prior.by_choice:
        reached, weights = outlook.outcomes(decision.candidate.choice)
        (time,) = quantiles(reached.time_ratio, weights, (MIDDLE,), reached.by_time)
    label: Literal["high", "medium", "low"] = (
        "high" if p >= 0.9 else "medium" if p >= 0.75 else "low"
    )
    ratio = (math.exp(low), math.exp(middle), math.exp(high))
    return Forecast(len(outlook.prior.tasks), p, ratio, time, label)


def calibrate(seen: Sequence[tuple[Features, float]]) -> Calibration:
    """Fit how decisions have turned out.

    Args:
        seen: Features of decisions, each on a task whose family the outlook did not know, with
            1 + excess loss as judged by another seed.
    """
    from sklearn.linear_model import HuberRegressor, LogisticRegression

    if len(seen) < 4:
        return Calibration((0.0, 1.0, 0.0), (0.0, 1.0, 0.0), 1.0, 1.0)
    ratio = np.array([max(r, LEAST_RATIO) for _, r in seen])
    logs = np.minimum(np.log(ratio), 2.0)
    inputs = np.array([[f.middle, f.gap] for f, _ in seen])
    line = HuberRegressor(alpha=0.01, max_iter=1000).fit(inputs, logs)
    middle = line.predict(inputs)
    spreads = np.array([f.spread for f, _ in seen])
    scores = (logs - middle) / spreads
    # Split-conformal quantiles, a little outside of the plain ones.
    n = len(scores)
    below = -float(np.quantile(scores, max(0.0, LOW - 1 / n)))
    above = float(np.quantile(scores, min(1.0, HIGH + 1 / n)))
    beats = ratio < 1
    chance = (0.0, 1.0, 0.0)
    if 0 < beats.sum() < len(beats):
        logits = np.array([[math.log(f.share / (1 - f.share))] for f, _ in seen])
        fitted = LogisticRegression(C=1.0).fit(np.column_stack([logits, middle]), beats)
        chance = _three(fitted.intercept_[0], *fitted.coef_[0])
    parts = _three(line.intercept_, *line.coef_)
    return Calibration(chance, parts, max(below, 0.0), max(above, 0.0))


@functools.cache
def shipped(tier: str) -> Calibration:
    """The calibration of a tier on the whole truth table."""
    parts = odds()[tier]
    return Calibration(
        _three(*parts["chance"]), _three(*parts["middle"]), parts["below"], parts["above"]
    )


def _three(first: float, second: float, third: float) -> tuple[float, float, float]:
    return float(first), float(second), float(third)
