"""A gradient that is no number where the loss is one."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from recommender.illnesses import Evidence, Finding, Illness, Moment


class GradientNotFinite(Illness):
    """A root, logarithm or division at 0 has a value but no slope."""

    code: ClassVar[str] = "gradient_not_finite"
    moment: ClassVar[Moment] = "start"
    order: ClassVar[int] = 5
    source: ClassVar[str] = "by definition"

    def examine(self, evidence: Evidence) -> Finding | None:
        """Speaks where the default's first step breaks the loss."""
        trunk = evidence.start.first_steps
        if trunk.diverged_at is None or trunk.diverged_at > 1 or not np.isfinite(trunk.losses[0]):
            return None
        return self.found(
            "The first loss is finite, its gradient is not: after one step the loss was gone. "
            "Look for a root, a logarithm or a division at 0 in the model or the loss.",
            blocking=True,
        )
