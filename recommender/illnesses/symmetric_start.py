"""Units that start alike, and so stay alike."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import keras
import numpy as np

from recommender import treatments
from recommender.illnesses import Evidence, Finding, Illness, Mend, Moment
from recommender.problem import every_layer


class SymmetricStart(Illness):
    """Equal weights get equal gradients: a saddle that descent cannot leave."""

    code: ClassVar[str] = "symmetric_start"
    moment: ClassVar[Moment] = "data"
    source: ClassVar[str] = "Goodfellow, Bengio, Courville, Deep Learning, 2016, section 8.4"

    def examine(self, evidence: Evidence) -> Finding | None:
        """Speaks on kernels whose columns are all the same, the last layer's left out."""
        model = evidence.problem.model
        last = treatments.head(model)
        alike = []
        for layer in every_layer(model):
            kernel = getattr(layer, "kernel", None)
            if kernel is None or layer is last or not layer.trainable:
                continue
            columns = np.asarray(keras.ops.convert_to_numpy(kernel))
            columns = columns.reshape(-1, columns.shape[-1])
            if columns.shape[1] > 1 and (columns == columns[:, :1]).all():
                alike.append(layer.name)
        if not alike:
            return None
        return self.found(
            f"All units of {', '.join(alike[:3])} start with the same weights and will stay alike "
            "(a saddle point). Draw them at random: He's initialiser for ReLU, Glorot's for "
            "others.",
            float(len(alike)),
        )

    def mends(self, evidence: Evidence, finding: Finding) -> Sequence[Mend]:
        """Drawn weights."""
        change = "Draw the first weights at random (He for ReLU, Glorot for others)."
        return [Mend(self.code, change, finding.text, problem=treatments.redrawn, expected=0.3)]
