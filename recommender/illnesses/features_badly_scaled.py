"""Columns whose sizes lie far apart."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from recommender import treatments
from recommender.illnesses import Evidence, Finding, Illness, Mend, Moment


class FeaturesBadlyScaled(Illness):
    """Sizes of columns that lie more than tenfold apart make every single rate wrong for some.

    A column's size is the root mean square of its entries other than 0, so that pixels which are
    dark on most pictures, or words which are rare, count as they are where they occur.
    """

    code: ClassVar[str] = "features_badly_scaled"
    moment: ClassVar[Moment] = "data"
    source: ClassVar[str] = (
        "LeCun, Bottou, Orr, Müller, Efficient BackProp, 1998, section 4.3; own measurement"
    )

    def examine(self, evidence: Evidence) -> Finding | None:
        """Speaks by the description's word."""
        description = evidence.description
        if "badly_scaled" not in description.tags or "Normalization" in description.layers:
            return None
        spread = 10**description.scale_spread
        return self.found(
            f"Feature scales lie {spread:.0f}-fold apart (90 % over 10 % quantile of their sizes). "
            "Put a Normalization layer in front (adapted on the training inputs) before tuning.",
            spread,
        )

    def mends(self, evidence: Evidence, finding: Finding) -> Sequence[Mend]:
        """Standardised columns."""
        change = "Put a Normalization layer in front, adapted on the training inputs."
        return [
            Mend(self.code, change, finding.text, problem=treatments.standardised, expected=0.2)
        ]
