"""First outputs that are far too sure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar

from recommender import treatments
from recommender.examples import take
from recommender.illnesses import Evidence, Finding, Illness, Mend, Moment
from recommender.models import forward


class InitialLossTooHigh(Illness):
    """A classifier that knows nothing says so with the logarithm of its classes."""

    code: ClassVar[str] = "initial_loss_too_high"
    moment: ClassVar[Moment] = "start"
    plain: ClassVar[bool] = True
    order: ClassVar[int] = 10
    source: ClassVar[str] = "own: three times the logarithm of the classes, plus 1"

    def examine(self, evidence: Evidence) -> Finding | None:
        """Speaks on the validation loss before training."""
        problem, description = evidence.problem, evidence.description
        if description.task != "classification" or not description.classes:
            return None
        width = int(forward(problem.model, take(problem.x, slice(0, 1))).shape[-1])
        expected, start = math.log(width), evidence.start.initial_loss
        if start <= 3 * expected + 1:
            return None
        return self.found(
            f"The loss before training is {start:.3g}, about {expected:.3g} would be usual for "
            f"{width} classes: the inputs' scale or the initial weights are too large.",
            start,
        )

    def mends(self, evidence: Evidence, finding: Finding) -> Sequence[Mend]:
        """A smaller last layer."""
        if treatments.head(evidence.problem.model) is None:
            return ()
        change = "Start the last layer's weights at a tenth of their size."
        return [
            Mend(self.code, change, finding.text, problem=treatments.with_small_head, expected=0.15)
        ]
