"""Now and then a gradient far larger than usual."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import ClassVar

import numpy as np

from recommender.illnesses import Evidence, Finding, Illness, Mend, Moment
from recommender.measurements import norms_ratio
from recommender.settings import Setting

RATIO = 10.0


class HeavyTailedGradients(Illness):
    """One gradient ten times as long as the usual one undoes ten steps."""

    code: ClassVar[str] = "heavy_tailed_gradients"
    moment: ClassVar[Moment] = "start"
    source: ClassVar[str] = (
        "Zhang et al., Why are Adaptive Methods Good for Attention Models?, 2020; own threshold"
    )

    def examine(self, evidence: Evidence) -> Finding | None:
        """Speaks on the longest over the middle norm of micro-batches' gradients."""
        norms = evidence.start.noise.norms
        ratio = norms_ratio(norms)
        if ratio < RATIO:
            return None
        return self.found(
            f"The longest of {len(norms)} gradients is {ratio:.0f} times the middle one. Clip by "
            f"the global norm at {_bound(norms):.2g} (90 % of the measured norms are below), or "
            "look for outliers in the data.",
            ratio,
        )

    def mends(self, evidence: Evidence, finding: Finding) -> Sequence[Mend]:
        """Clipping where nine in ten stay whole."""
        bound = float(f"{_bound(evidence.start.noise.norms):.2g}")

        def clipped(setting: Setting) -> Setting:
            return dataclasses.replace(
                setting, config=tuple(sorted([*setting.config, ("global_clipnorm", bound)]))
            )

        change = f"Clip gradients: global_clipnorm={bound:g}."
        return [Mend(self.code, change, finding.text, setting=clipped, expected=0.03)]


def _bound(norms: Sequence[float]) -> float:
    return float(np.quantile(norms, 0.9))
