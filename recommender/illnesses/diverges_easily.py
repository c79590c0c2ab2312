"""Rates that break the training lie close to the usual one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from recommender.illnesses import Evidence, Finding, Illness, Mend, Moment
from recommender.illnesses.recurrent_unclipped import clipped

# Times the default's rate.
MARGIN = 10.0


class DivergesEasily(Illness):
    """Rates up to ten times the default's are usual candidates; here they end in infinity."""

    code: ClassVar[str] = "diverges_easily"
    moment: ClassVar[Moment] = "start"
    order: ClassVar[int] = 80
    source: ClassVar[str] = "own: the range test"

    def examine(self, evidence: Evidence) -> Finding | None:
        """Speaks on the smallest rate of the range test that broke."""
        edge, default = evidence.start.edge, evidence.start.default.learning_rate
        if edge is None or edge > MARGIN * default * (1 + 1e-6):
            return None
        return self.found(
            f"Training broke at a rate of {edge:g} within a few steps. Stay at or below a third of "
            "it, clip gradients by their global norm, and look at the inputs' scale.",
            edge,
        )

    def mends(self, evidence: Evidence, finding: Finding) -> Sequence[Mend]:
        """The same rule, clipped."""
        return [
            Mend(
                self.code, "Clip gradients: global_clipnorm=1.0.", finding.text,
                setting=clipped, expected=0.01,
            )
        ]  # fmt: skip
