"""Validation examples that are trained on."""

from __future__ import annotations

from typing import Any, ClassVar

import keras
import numpy as np

from recommender.illnesses import Evidence, Finding, Illness, Moment

SHARE = 0.2
ROWS = 500


class ValidationInTraining(Illness):
    """A fifth of the validation inputs among the training inputs makes its loss a training loss."""

    code: ClassVar[str] = "validation_in_training"
    moment: ClassVar[Moment] = "data"
    source: ClassVar[str] = "own"

    def examine(self, evidence: Evidence) -> Finding | None:
        """Speaks where rows agree to the last bit."""
        train, held = (_first(x) for x in (evidence.problem.x, evidence.problem.x_val))
        held = held[:ROWS]
        if held.dtype.kind != "f" or not len(held) or not len(train):
            return None
        seen = {row.tobytes() for row in train}
        share = float(np.mean([row.tobytes() in seen for row in held]))
        if share <= SHARE:
            return None
        return self.found(
            f"{share:.0%} of the validation inputs are also training inputs: the "
            "validation loss says little about new data.",
            share,
        )


def _first(x: Any) -> Any:
    return np.asarray(keras.tree.flatten(x)[0])
