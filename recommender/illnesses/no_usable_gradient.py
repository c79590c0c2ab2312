"""A loss that moves while its gradient is 0."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from recommender.illnesses import Evidence, Finding, Illness, Mend, Moment
from recommender.illnesses.weights_without_gradient import unmoved
from recommender.remedies import class_names


class NoUsableGradient(Illness):
    """Thresholds, counts and draws have steps, not slopes: gradients of 0 say nothing."""

    code: ClassVar[str] = "no_usable_gradient"
    moment: ClassVar[Moment] = "start"
    order: ClassVar[int] = 4
    source: ClassVar[str] = "by definition"

    def examine(self, evidence: Evidence) -> Finding | None:
        """Speaks where first steps moved no weight, but shaken weights give another loss."""
        if evidence.start.refused is not None:
            return self._finding(f"No gradient can be computed ({evidence.start.refused})")
        still, total = unmoved(evidence)
        if not total or len(still) < total or not evidence.start.moves:
            return None
        return self._finding(
            f"All {total} weights have a gradient of exactly 0, though the loss moves with them"
        )

    def _finding(self, seen: str) -> Finding:
        return self.found(
            f"{seen}: no gradient method can train this model. "
            f"Search without gradients ({class_names(self.code)}), or put a smooth stand-in where "
            "the model has a threshold, a rounding or a draw.",
            1.0,
            blocking=True,
        )

    def mends(self, evidence: Evidence, finding: Finding) -> Sequence[Mend]:
        """Words: such methods need a bound model."""
        change = f"Search without gradients: {class_names(self.code)}."
        return [Mend(self.code, change, finding.text)]
