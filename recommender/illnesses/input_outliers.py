"""Inputs with rare, very large values."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import keras
import numpy as np
from scipy import stats

from recommender import treatments
from recommender.illnesses import Evidence, Finding, Illness, Mend, Moment

# Kurtosis of a column; that of an exponential distribution is 9.
KURTOSIS = 50.0
# Fewer different values are categories or counts.
VALUES = 20


class InputOutliers(Illness):
    """One row with a huge input moves the weights more than all others together."""

    code: ClassVar[str] = "input_outliers"
    moment: ClassVar[Moment] = "data"
    source: ClassVar[str] = "own measurement"

    def examine(self, evidence: Evidence) -> Finding | None:
        """Speaks on the largest kurtosis of a column that is no category."""
        worst, count = 0.0, 0
        for table in keras.tree.flatten(evidence.problem.x):
            if not treatments.is_table(table):
                continue
            some = np.asarray(table[:5000], np.float64)
            columns = [c for c in some.T if len(np.unique(c)) >= VALUES and (c != 0).mean() > 0.5]
            tails = [float(stats.kurtosis(c, fisher=False)) for c in columns]
            count += sum(t > KURTOSIS for t in tails)
            worst = max([worst, *tails])
        if worst <= KURTOSIS:
            return None
        return self.found(
            f"{count} columns have rare, very large values (kurtosis up to {worst:.0f}). Clip them "
            "at their 1 % and 99 % quantiles, or take their logarithm.",
            worst,
        )

    def mends(self, evidence: Evidence, finding: Finding) -> Sequence[Mend]:
        """Clipped columns."""
        change = "Clip every column at its 1 % and 99 % quantiles."
        return [Mend(self.code, change, finding.text, problem=treatments.clipped, expected=-0.02)]
