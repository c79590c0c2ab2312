"""Logits that the loss takes for probabilities."""

from __future__ import annotations

from typing import ClassVar

import keras
import numpy as np

from recommender.examples import take
from recommender.illnesses import Evidence, Finding, Illness, Moment
from recommender.illnesses.squashed_twice import expects_logits
from recommender.losses import OUTPUT_ROWS
from recommender.models import forward


class LogitsTakenForProbabilities(Illness):
    """A cross-entropy cuts off what lies outside of 0 to 1, and with it the gradient."""

    code: ClassVar[str] = "logits_taken_for_probabilities"
    moment: ClassVar[Moment] = "data"
    plain: ClassVar[bool] = True
    order: ClassVar[int] = 0
    source: ClassVar[str] = "by definition"

    def examine(self, evidence: Evidence) -> Finding | None:
        """Speaks by the outputs themselves."""
        problem = evidence.problem
        if expects_logits(problem.loss) is not False:
            return None
        few = take(problem.x, slice(0, OUTPUT_ROWS))
        outputs = np.asarray(keras.ops.convert_to_numpy(forward(problem.model, few)), np.float64)
        inside = bool(((outputs >= 0) & (outputs <= 1)).all())
        if inside or not np.isfinite(outputs).all():
            return None
        return self.found(
            f"The loss expects probabilities, the outputs run from {outputs.min():.3g} to "
            f"{outputs.max():.3g}. Set from_logits=True in the loss, or end the model in "
            "softmax or sigmoid.",
            blocking=True,
        )
