"""Units that start alike, and so stay alike."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from recommender import treatments
from recommender.illnesses import Evidence, Finding, Illness, Mend, Moment


class SymmetricStart(Illness):
    """Equal weights get equal gradients: a saddle that descent cannot leave."""

    code: ClassVar[str] = "symmetric_start"
    moment: ClassVar[Moment] = "start"
    order: ClassVar[int] = 12
    source: ClassVar[str] = "Goodfellow, Bengio, Courville, Deep Learning, 2016, section 8.4"

    def examine(self, evidence: Evidence) -> Finding | None:
        """Speaks on kernels whose columns are all the same even after the default's first steps."""
        population, trunk = evidence.start.population, evidence.start.first_steps
        if trunk.step == 0 or trunk.diverged_at is not None:
            return None
        variables = evidence.problem.model.trainable_variables
        last = treatments.head(evidence.problem.model)
        alike = [
            v.path
            for v, value in zip(variables, population.trained(trunk.state), strict=True)
            if v.name == "kernel" and v is not getattr(last, "kernel", None) and _alike(value)
        ]
        if not alike:
            return None
        return self.found(
            f"All units of {', '.join(alike[:3])} start with the same weights and stay alike (a "
            "saddle point). Draw them at random: He's initialiser for ReLU, Glorot's for "
            "others.",
            float(len(alike)),
        )

    def mends(self, evidence: Evidence, finding: Finding) -> Sequence[Mend]:
        """Drawn weights."""
        change = "Draw the first weights at random (He for ReLU, Glorot for others)."
        return [Mend(self.code, change, finding.text, problem=treatments.redrawn, expected=0.3)]


def _alike(kernel: NDArray[Any]) -> bool:
    """Whether all columns are the same, but for rounding."""
    columns = kernel.reshape(-1, kernel.shape[-1])
    size = float(np.abs(columns).max())
    return columns.shape[1] > 1 and bool((np.abs(columns - columns[:, :1]) <= 1e-5 * size).all())
