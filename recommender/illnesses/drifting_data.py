"""Rows that follow each other and change on the way."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from recommender.illnesses import Evidence, Finding, Illness, Mend, Moment
from recommender.remedies import settings

# Consecutive pieces that are compared, the odds of such a difference by chance, and the share of
# the losses' variance that it explains.
PIECES, ODDS, SHARE = 16, 1e-4, 0.03


class DriftingData(Illness):
    """Errors that depend on when a row came, though rows were trained on in random order.

    Rows that are merely sorted by their target are left out: errors depend on targets.
    """

    code: ClassVar[str] = "drifting_data"
    moment: ClassVar[Moment] = "race"
    order: ClassVar[int] = 40
    source: ClassVar[str] = "analysis of variance of the leader's losses over time; own thresholds"

    def examine(self, evidence: Evidence) -> Finding | None:
        """Speaks on the losses' differences between pieces of the training rows."""
        seen = evidence.after.in_order
        if seen is None or seen.losses is None or len(seen.losses) < 8 * PIECES:
            return None
        odds, share = change_over_time(seen.losses)
        if odds > ODDS or share < SHARE or _sorted(seen.targets):
            return None
        names = ", ".join(s.label for s in settings(self.code))
        return self.found(
            f"Errors depend on when a row came ({share:.0%} of their variance): data drift. Hold "
            f"out the last rows, not random ones; for a model that follows the drift take "
            f"{names}, which forgets sooner, and do not let the rate fall to 0.",
            share,
        )

    def mends(self, evidence: Evidence, finding: Finding) -> Sequence[Mend]:
        """Words: short trainings on shuffled rows cannot show what happens on later ones."""
        change = "Hold out the last rows for validation, and keep the rate above 0."
        return [Mend(self.code, change, finding.text)]


def change_over_time(losses: NDArray[np.float64]) -> tuple[float, float]:
    """Odds that losses of consecutive pieces differ so by chance, and the variance explained.

    Ranks are compared, since losses have long tails.
    """
    ranks = stats.rankdata(losses)
    pieces = np.array_split(ranks, PIECES)
    between = sum(len(p) * (p.mean() - ranks.mean()) ** 2 for p in pieces)
    total = float(np.sum((ranks - ranks.mean()) ** 2))
    if not total > 0:
        return 1.0, 0.0
    return float(stats.kruskal(*pieces).pvalue), float(between / total)


def _sorted(targets: NDArray[np.float64]) -> bool:
    """Whether targets of neighbours are alike, beyond chance: rows in the order of targets."""
    values = np.asarray(targets, np.float64).reshape(len(targets), -1)[:, 0]
    if not values.std() > 0:
        return False
    return float(stats.spearmanr(values[:-1], values[1:]).statistic) > 0.9
