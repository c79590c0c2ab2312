"""Regression targets with rare, very large values."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import numpy as np
from scipy import stats

from recommender import treatments
from recommender.illnesses import Evidence, Finding, Illness, Mend, Moment

# A normal distribution has 3, an exponential one 9.
KURTOSIS = 10.0


class HeavyTailedTargets(Illness):
    """Squares of a few large errors outweigh all other rows."""

    code: ClassVar[str] = "heavy_tailed_targets"
    moment: ClassVar[Moment] = "data"
    plain: ClassVar[bool] = True
    source: ClassVar[str] = "Huber, Robust Estimation of a Location Parameter, 1964; own threshold"

    def examine(self, evidence: Evidence) -> Finding | None:
        """Speaks on the kurtosis of the targets."""
        if type(evidence.problem.loss).__name__ != "MeanSquaredError":
            return None
        y = np.asarray(evidence.problem.y, np.float64).ravel()
        if not y.std() > 0:
            return None
        kurtosis = float(stats.kurtosis(y, fisher=False))
        if kurtosis < KURTOSIS:
            return None
        words = "Train with the Huber loss"
        if (y > 0).all() or ((y >= 0).all() and stats.skew(y) > 2):
            words += ", or on the logarithm of the targets"
        return self.found(
            f"The targets' kurtosis is {kurtosis:.0f} (a normal distribution has 3): squares of a "
            f"few large errors outweigh all else. {words}, if large values are errors or count "
            "no more than others.",
            kurtosis,
        )

    def mends(self, evidence: Evidence, finding: Finding) -> Sequence[Mend]:
        """The Huber loss, judged by the squared one."""
        change = "Train with the Huber loss, linear beyond twice the targets' usual deviation."
        return [Mend(self.code, change, finding.text, problem=treatments.huber, expected=0.02)]
