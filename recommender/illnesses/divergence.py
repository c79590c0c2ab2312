"""Candidates whose loss stopped being a number."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from recommender.illnesses import Evidence, Finding, Illness, Mend, Moment
from recommender.illnesses.recurrent_unclipped import clipped


class Divergence(Illness):
    """Too high a rate enlarges the weights step by step until nothing is left."""

    code: ClassVar[str] = "divergence"
    moment: ClassVar[Moment] = "race"
    order: ClassVar[int] = 0
    source: ClassVar[str] = "by definition"

    def examine(self, evidence: Evidence) -> Finding | None:
        """Speaks on trunks that ended in infinity or NaN."""
        broken = [r for r in evidence.after.results if r.diverged_at is not None]
        if not broken:
            return None
        named = ", ".join(f"{r.setting.label} at step {r.diverged_at}" for r in broken[:3])
        return self.found(
            f"{len(broken)} candidates diverged ({named}). Rates near these need clipping "
            "(global_clipnorm=1.0) or a warmup; a third of such a rate is usually safe.",
            float(len(broken)),
        )

    def mends(self, evidence: Evidence, finding: Finding) -> Sequence[Mend]:
        """The leader's rule, clipped."""
        return [
            Mend(
                self.code, "Clip gradients: global_clipnorm=1.0.", finding.text,
                setting=clipped, expected=0.02,
            )
        ]  # fmt: skip
