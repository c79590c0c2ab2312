"""Batches far larger than their gradient's noise asks for."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar

from recommender import treatments
from recommender.illnesses import Evidence, Finding, Illness, Mend, Moment
from recommender.illnesses.batch_too_small import faster
from recommender.remedies import settings

RATIO = 4.0
FACTOR = 4
LEAST = 64


class BatchTooLarge(Illness):
    """Far above the noise scale, examples are spent on a gradient that is known already."""

    code: ClassVar[str] = "batch_too_large"
    moment: ClassVar[Moment] = "race"
    order: ClassVar[int] = 60
    source: ClassVar[str] = (
        "McCandlish et al., An Empirical Model of Large-Batch Training, 2018; own threshold"
    )

    def examine(self, evidence: Evidence) -> Finding | None:
        """Speaks on the gradient noise scale."""
        size = evidence.problem.batch_size
        if size < LEAST:
            return None
        noise = evidence.after.noise
        if noise is None or not 0 <= noise.scale * RATIO < size:
            return None
        scale = noise.scale
        names = ", ".join(s.class_name for s in settings(self.code))
        return self.found(
            f"The gradient's noise scale is about {scale:.0f} examples, the batch has {size}: "
            "smaller batches take more steps on the same examples. If the batch has to stay, raise "
            f"the rate with its root behind a warmup, or take {names}.",
            scale,
        )

    def mends(self, evidence: Evidence, finding: Finding) -> Sequence[Mend]:
        """Batches of a quarter, at a rate that shrinks with their root; else the rule for it."""
        size = evidence.problem.batch_size // FACTOR
        smaller = Mend(
            self.code, f"Take batches of {size}.", finding.text,
            problem=lambda problem: treatments.in_batches_of(problem, size),
            setting=lambda setting: faster(setting, 1 / math.sqrt(FACTOR)), expected=0.1,
        )  # fmt: skip
        others = self.instead(finding, 0.01)
        return [smaller, *others]
