"""How good a candidate looks: what it did elsewhere, corrected by what its probe shows here."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TypeVar

import numpy as np

Key = TypeVar("Key")

# How much a probe's result counts against the prior, by its length as a share of the full one:
# at 1 % hardly, at half the length nearly alone. Chosen on the development tasks of the truth
# table, by powers of about two.
EVIDENCE = {0.01: 0.1, 0.02: 0.15, 0.04: 0.2, 0.08: 0.4, 0.16: 0.7, 0.25: 1.5, 0.5: 10.0, 1.0: 30.0}
# Losses that lie this share apart count as about equal; far above it only the logarithm counts.
NEAR = 0.02
# Where losses pass through 0, distances are relative to at least this share of the progress made.
LEAST_SCALE = 0.05
FARTHEST = 10.0


def evidence(share: float) -> float:
    """Weight of a probe of this length, between the entries of `EVIDENCE` on a double log scale."""
    shares = np.log(list(EVIDENCE))
    return float(np.exp(np.interp(math.log(share), shares, np.log(list(EVIDENCE.values())))))


def behind(losses: Mapping[Key, float], initial: float) -> dict[Key, float]:
    """How far each candidate lies behind the leader: 0 for the leader itself.

    `log(1 + d / 0.02)`, where d is the distance from the leader's loss relative to that loss, cut
    off at 10.

    Args:
        losses: Validation losses at one rung; infinite where a probe diverged.
        initial: Validation loss before training.
    """
    best = min(losses.values())
    if not math.isfinite(best):
        return dict.fromkeys(losses, 0.0)
    scale = max(abs(best), LEAST_SCALE * max(initial - best, 0.0), 1e-12)
    return {
        key: math.log1p(min((loss - best) / scale, FARTHEST) / NEAR) for key, loss in losses.items()
    }


def standings(
    priors: Mapping[Key, float], losses: Mapping[Key, float], initial: float, share: float
) -> dict[Key, float]:
    """Expected penalty of those who stand at a rung, lowest first.

    Args:
        priors: Expected penalty before probing.
        losses: Validation losses at the rung.
        initial: Validation loss before training.
        share: Length of the rung's training over the full one.
    """
    weight, distance = evidence(share), behind(losses, initial)
    found = {
        key: priors[key] + weight * distance[key] if math.isfinite(losses[key]) else math.inf
        for key in losses
    }
    return dict(sorted(found.items(), key=lambda pair: pair[1]))
