"""Batch statistics of too few examples."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from recommender import treatments
from recommender.illnesses import Evidence, Finding, Illness, Mend, Moment

LEAST = 16


class BatchNormSmallBatch(Illness):
    """Mean and variance of a few examples are noise that validation does not see."""

    code: ClassVar[str] = "batch_norm_small_batch"
    moment: ClassVar[Moment] = "data"
    source: ClassVar[str] = "Wu, He, Group Normalization, ECCV 2018, figure 1"

    def examine(self, evidence: Evidence) -> Finding | None:
        """Speaks on the batch size."""
        size = evidence.problem.batch_size
        if size >= LEAST or "BatchNormalization" not in evidence.description.layers:
            return None
        return self.found(
            f"BatchNormalization takes its statistics from {size} examples. Take layer or group "
            f"normalisation, or batches of at least {LEAST}.",
            float(size),
        )

    def mends(self, evidence: Evidence, finding: Finding) -> Sequence[Mend]:
        """Layer normalisation in its place."""
        change = "Take LayerNormalization in place of BatchNormalization."
        return [
            Mend(
                self.code, change, finding.text,
                problem=treatments.without_batch_statistics, expected=0.1,
            )
        ]  # fmt: skip
