"""The same request with the next larger budget."""

from __future__ import annotations

from typing import Any

from recommender.budget import SHARE, TIERS

LONGEST_SECONDS = 3600.0


def larger(request: dict[str, Any]) -> dict[str, Any] | None:
    """A request with the next tier, and with seconds that grow as the tier's share does.

    Args:
        request: As a job keeps it.

    Returns:
        The request; None where no tier is left.
    """
    place = TIERS.index(request["tier"]) + 1
    if place == len(TIERS):
        return None
    tier = TIERS[place]
    growth = SHARE[tier] / (SHARE[request["tier"]] or SHARE[tier])
    seconds = min(LONGEST_SECONDS, request["max_seconds"] * growth)
    return {**request, "tier": tier, "max_seconds": seconds}
