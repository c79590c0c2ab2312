"""Targets far from the size that outputs have at the start."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import numpy as np

from recommender import treatments
from recommender.illnesses import Evidence, Finding, Illness, Mend, Moment

HIGH, LOW = 100.0, 1e-3
# Means further than this from 0, in deviations, take long to reach.
OFFSET = 10.0


class TargetsBadlyScaled(Illness):
    """Outputs start near 0 with deviation 1; how far targets are from that is walked in steps."""

    code: ClassVar[str] = "targets_badly_scaled"
    moment: ClassVar[Moment] = "data"
    plain: ClassVar[bool] = True
    source: ClassVar[str] = "own: Adam moves a weight by about its rate a step"

    def examine(self, evidence: Evidence) -> Finding | None:
        """Speaks on the targets' deviation, or a mean far beyond it."""
        if evidence.description.task != "regression":
            return None
        y = np.asarray(evidence.problem.y, np.float64)
        deviation, mean = float(np.std(y)), float(np.mean(y))
        far = deviation > 0 and abs(mean) > OFFSET * max(deviation, 1.0)
        if not (deviation > HIGH or 0 < deviation < LOW or far):
            return None
        return self.found(
            f"Targets have a standard deviation of {deviation:.3g} around {mean:.3g}. "
            "Scale them to about 1 around 0.",
            deviation,
        )

    def mends(self, evidence: Evidence, finding: Finding) -> Sequence[Mend]:
        """Outputs in the targets' units."""
        change = (
            "Scale the targets to mean 0 and deviation 1, or end the model in a Rescaling layer."
        )
        return [
            Mend(
                self.code, change, finding.text, problem=treatments.rescaled_targets,
                expected=0.5, own_loss=True,
            )
        ]  # fmt: skip
