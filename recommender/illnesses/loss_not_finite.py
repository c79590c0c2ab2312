"""A loss that is no number before anything is trained."""

from __future__ import annotations

import math
from typing import ClassVar

from recommender.illnesses import Evidence, Finding, Illness, Moment


class LossNotFinite(Illness):
    """Nothing can be compared with NaN."""

    code: ClassVar[str] = "loss_not_finite"
    moment: ClassVar[Moment] = "start"
    order: ClassVar[int] = 0
    source: ClassVar[str] = "by definition"

    def examine(self, evidence: Evidence) -> Finding | None:
        """Speaks on the validation loss before training."""
        if math.isfinite(evidence.start.initial_loss):
            return None
        return self.found(
            "The loss before training is not finite. Check the inputs' scale, the loss and the "
            "last layer's activation.",
            blocking=True,
        )
