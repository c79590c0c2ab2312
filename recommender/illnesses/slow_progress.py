"""A default that is far slower than others here."""

from __future__ import annotations

from typing import ClassVar

from recommender.illnesses import Evidence, Finding, Illness, Moment

# Share of the best run's way from the initial loss that the default has made.
SHARE = 0.5


class SlowProgress(Illness):
    """At equal steps the default has made less than half of the leader's way."""

    code: ClassVar[str] = "slow_progress"
    moment: ClassVar[Moment] = "race"
    order: ClassVar[int] = 10
    source: ClassVar[str] = "own: the race"

    def examine(self, evidence: Evidence) -> Finding | None:
        """Speaks on validation losses at the last rung that both reached."""
        after, leader = evidence.after, evidence.after.leader
        own = next((r for r in after.results if r.setting == after.default), None)
        if own is None or leader is None or not own.rungs or leader is own:
            return None
        step = min(own.rungs[-1].step, leader.rungs[-1].step)
        mine, best = (
            next((r.loss for r in one.rungs if r.step == step), None) for one in (own, leader)
        )
        if mine is None or best is None or not best < after.initial_loss:
            return None
        share = (after.initial_loss - mine) / (after.initial_loss - best)
        if share >= SHARE:
            return None
        return self.found(
            f"At step {step} Keras' default has made {max(share, 0):.0%} of the way that "
            f"{leader.setting.label} has made. Raise the rate, add momentum, or better the "
            "conditioning: scaled inputs, normalised layers.",
            share,
        )
