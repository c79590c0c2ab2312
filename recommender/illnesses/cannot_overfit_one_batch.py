"""A model that cannot learn one batch by heart will not learn the data."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from recommender.illnesses import Evidence, Finding, Illness, Moment

LEAST_DROP = 0.02


class CannotOverfitOneBatch(Illness):
    """Steps on one batch alone must lower its loss."""

    code: ClassVar[str] = "cannot_overfit_one_batch"
    moment: ClassVar[Moment] = "start"
    order: ClassVar[int] = 20
    source: ClassVar[str] = "own: 2 % in 30 steps at ten times the default's rate"

    def examine(self, evidence: Evidence) -> Finding | None:
        """Speaks on the lowest loss of these steps."""
        losses = evidence.start.by_heart
        if not np.isfinite(losses[0]):
            return self.found(
                "The first loss of a training batch is not finite. Check the inputs' scale, the "
                "loss and the last layer's activation.",
                blocking=True,
            )
        lowest = float(np.nanmin(losses))
        if lowest <= losses[0] - LEAST_DROP * abs(losses[0]):
            return None
        return self.found(
            f"{len(losses)} steps on one batch left its loss at {lowest:.3g} (from "
            f"{losses[0]:.3g}). Check that targets belong to inputs, that layers are "
            "trainable, and that no activation is saturated.",
            lowest,
            blocking=True,
        )
