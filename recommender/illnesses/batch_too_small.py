"""Batches whose gradient is mostly noise."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import ClassVar

from recommender import treatments
from recommender.illnesses import Evidence, Finding, Illness, Mend, Moment
from recommender.settings import Setting

# Times that the noise scale exceeds the batch.
RATIO = 8.0
FACTOR = 4


class BatchTooSmall(Illness):
    """Far below the noise scale, a batch of twice the size saves half of the steps."""

    code: ClassVar[str] = "batch_too_small"
    moment: ClassVar[Moment] = "race"
    order: ClassVar[int] = 60
    hint: ClassVar[bool] = True
    source: ClassVar[str] = (
        "McCandlish et al., An Empirical Model of Large-Batch Training, 2018; own threshold"
    )

    def examine(self, evidence: Evidence) -> Finding | None:
        """Speaks on the gradient noise scale."""
        noise, size = evidence.after.noise, evidence.problem.batch_size
        if noise is None or not noise.scale > RATIO * size:
            return None
        scale = f"about {noise.scale:.0f}" if math.isfinite(noise.scale) else "thousands of"
        return self.found(
            f"The gradient's noise scale is {scale} examples, the batch has "
            f"{size}: larger batches would lose little of each example. Early in a training they "
            "were no better per example on recorded tasks: take them only to fill idle hardware.",
            noise.scale,
        )

    def mends(self, evidence: Evidence, finding: Finding) -> Sequence[Mend]:
        """Batches four times as large, at a rate that grows with their root."""
        size = FACTOR * evidence.problem.batch_size
        if size > evidence.problem.training.rows:
            return ()
        times = f"{math.sqrt(FACTOR):g} times the rate"
        change = f"Only to fill idle hardware: take batches of {size} at {times}."
        return [
            Mend(
                self.code, change, finding.text,
                problem=lambda problem: treatments.in_batches_of(problem, size),
                setting=lambda setting: faster(setting, math.sqrt(FACTOR)), expected=-0.1,
            )
        ]  # fmt: skip


def faster(setting: Setting, factor: float) -> Setting:
    """The same setting at another rate."""
    return dataclasses.replace(setting, learning_rate=setting.learning_rate * factor)
