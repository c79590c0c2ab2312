"""Rectified units that are silent on every example."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from recommender import treatments
from recommender.illnesses import Evidence, Finding, Illness, Mend, Moment
from recommender.measurements import LayerFacts

SHARE = 0.4


class DeadUnits(Illness):
    """A unit that never fires has no gradient, and never will."""

    code: ClassVar[str] = "dead_units"
    moment: ClassVar[Moment] = "start"
    order: ClassVar[int] = 40
    source: ClassVar[str] = (
        "Lu, Shin, Su, Karniadakis, Dying ReLU and Initialization, 2020; own threshold"
    )

    def examine(self, evidence: Evidence) -> Finding | None:
        """Speaks on the worst layer, at the first weights and after the default's first steps."""
        worst = self._worst(evidence.start.layers)
        if worst is None and any(layer.rectified for layer in evidence.start.layers):
            worst = self._worst(evidence.start.layers_later)
        if worst is None:
            return None
        return self.found(
            f"{worst.dead:.0%} of the units of {worst.name} are silent on a whole batch. Lower the "
            "rate, take leaky ReLU or GELU, and start biases at 0.",
            worst.dead,
        )

    def _worst(self, layers: Sequence[LayerFacts]) -> LayerFacts | None:
        worst = max(layers[:-1], key=lambda layer: layer.dead, default=None)
        return worst if worst is not None and worst.dead > SHARE else None

    def mends(self, evidence: Evidence, finding: Finding) -> Sequence[Mend]:
        """Leaky units."""
        change = "Take leaky ReLU in place of ReLU."
        return [
            Mend(self.code, change, finding.text, problem=treatments.with_leaky_units, expected=0.3)
        ]
