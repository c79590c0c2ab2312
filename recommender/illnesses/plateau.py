"""A training that has not left its start."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar

from recommender import treatments
from recommender.illnesses import Evidence, Finding, Illness, Mend, Moment

SHARE = 0.03


class Plateau(Illness):
    """Flat ground, a saddle or a shallow minimum: no candidate came away from the first loss."""

    code: ClassVar[str] = "plateau"
    moment: ClassVar[Moment] = "race"
    order: ClassVar[int] = 0
    source: ClassVar[str] = "own: within 3 % of the initial loss, where probes tell nothing"

    def examine(self, evidence: Evidence) -> Finding | None:
        """Speaks on the lowest validation loss of the race."""
        after = evidence.after
        losses = [rung.loss for result in after.results for rung in result.rungs]
        lowest = min((loss for loss in losses if math.isfinite(loss)), default=math.nan)
        if not lowest > after.initial_loss - SHARE * abs(after.initial_loss):
            return None
        return self.found(
            f"No candidate came more than {SHARE:.0%} below the initial loss of "
            f"{after.initial_loss:.4g} (lowest {lowest:.4g}). Look at scales and first weights; "
            "momentum, noise (smaller batches), a restart from other weights, and more steps lead "
            "off a plateau.",
            lowest,
        )

    def mends(self, evidence: Evidence, finding: Finding) -> Sequence[Mend]:
        """Other first weights, and momentum at a high rate."""
        change = "Draw the first weights anew (He for ReLU, Glorot for others)."
        redraw = Mend(self.code, change, finding.text, problem=treatments.redrawn, expected=0.05)
        momentum = self.instead(finding, 0.04)
        return [redraw, *momentum]
