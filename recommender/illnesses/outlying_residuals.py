"""Rows whose target lies far off whatever the model says."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import numpy as np

from recommender import treatments
from recommender.illnesses import Evidence, Finding, Illness, Mend, Moment

# Usual deviations off, and the share of such rows; a normal distribution has 6e-7 of them.
FAR, SHARE = 5.0, 0.01
NORMAL = 1.4826  # deviation over median absolute deviation


class OutlyingResiduals(Illness):
    """Wrong targets among right ones: each pulls with the weight of its square."""

    code: ClassVar[str] = "outlying_residuals"
    moment: ClassVar[Moment] = "race"
    plain: ClassVar[bool] = True
    order: ClassVar[int] = 30
    source: ClassVar[str] = "Huber, Robust Statistics, 1981; own threshold"

    def examine(self, evidence: Evidence) -> Finding | None:
        """Speaks on the leader's errors on training rows."""
        seen = evidence.after.in_order
        if type(evidence.problem.loss).__name__ != "MeanSquaredError" or seen is None:
            return None
        errors = seen.outputs.reshape(len(seen.outputs), -1) - seen.targets.reshape(
            len(seen.targets), -1
        )
        usual = NORMAL * np.median(np.abs(errors - np.median(errors)))
        share = float(np.mean(np.abs(errors).max(1) > FAR * usual)) if usual > 0 else 0.0
        if share < SHARE or errors.shape[1] > 1:
            return None
        return self.found(
            f"{share:.1%} of the training rows lie more than five usual errors off. If their "
            "targets are wrong, drop them or train with the Huber loss; if they are right, they "
            "count most as it is.",
            share,
        )

    def mends(self, evidence: Evidence, finding: Finding) -> Sequence[Mend]:
        """The Huber loss, judged by the squared one."""
        change = "Train with the Huber loss, linear beyond twice the targets' usual deviation."
        return [Mend(self.code, change, finding.text, problem=treatments.huber, expected=0.0)]
