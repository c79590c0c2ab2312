"""A rate so small that standing still looks like convergence."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from recommender.illnesses import Evidence, Finding, Illness, Moment
from recommender.probes import ProbeResult

# Relative change of the mean loss from the third to the last quarter of the probe.
STILL = 0.02
# Share of the default's loss that a higher rate is below it.
LOWER = 0.1


class RateTooSmall(Illness):
    """The loss curve is flat, and the same rule at a higher rate is far below it."""

    code: ClassVar[str] = "rate_too_small"
    moment: ClassVar[Moment] = "race"
    order: ClassVar[int] = 5
    source: ClassVar[str] = "own: 2 % change over the second half, 10 % lower elsewhere"

    def examine(self, evidence: Evidence) -> Finding | None:
        """Speaks on the default's minibatch losses, and on a faster run of the same rule."""
        after = evidence.after
        own = next((r for r in after.results if r.setting == after.default), None)
        faster = _faster(after.results, own) if own is not None else None
        if own is None or faster is None:
            return None
        drop = recent_drop(own.losses)
        step = min(own.rungs[-1].step, faster.rungs[-1].step)
        mine, theirs = (_at(r, step) for r in (own, faster))
        gain = 1 - theirs / mine if mine > 0 else 0.0
        if drop is None or abs(drop) > STILL or gain < LOWER:
            return None
        return self.found(
            f"At {own.setting.learning_rate:g} the loss looks converged (it moved by {drop:.1%} "
            f"over the second half of {len(own.losses)} steps), but {faster.setting.label} is "
            f"{gain:.0%} lower at step {step}: the rate is too small, raise it.",
            gain,
        )


def _faster(results: tuple[ProbeResult, ...], own: ProbeResult) -> ProbeResult | None:
    """The best run of the same rule at a higher rate."""
    rivals = [
        r
        for r in results
        if r.rungs
        and r.setting.rule == own.setting.rule
        and r.setting.learning_rate > own.setting.learning_rate
    ]
    return min(rivals, key=lambda r: r.rungs[-1].loss, default=None) if own.rungs else None


def _at(result: ProbeResult, step: int) -> float:
    return next((r.loss for r in result.rungs if r.step == step), result.rungs[-1].loss)


def recent_drop(losses: tuple[float, ...]) -> float | None:
    """Share by which the mean loss fell from the third to the last quarter; None if too short."""
    quarter = len(losses) // 4
    if quarter < 5 or not np.isfinite(losses).all():
        return None
    before = float(np.mean(losses[2 * quarter : 3 * quarter]))
    after = float(np.mean(losses[3 * quarter :]))
    return 1 - after / before if before > 0 else None
