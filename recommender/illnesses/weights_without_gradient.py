"""Weights that no step moves."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from recommender.illnesses import Evidence, Finding, Illness, Moment


class WeightsWithoutGradient(Illness):
    """The default's rule moves every weight whose gradient was ever other than 0."""

    code: ClassVar[str] = "weights_without_gradient"
    moment: ClassVar[Moment] = "start"
    order: ClassVar[int] = 12
    source: ClassVar[str] = "by definition"

    def examine(self, evidence: Evidence) -> Finding | None:
        """Speaks on weights that are what they were, to the last bit."""
        still, total = unmoved(evidence)
        if not still or len(still) == total:
            return None
        return self.found(
            f"{evidence.start.first_steps.step} steps left {len(still)} of {total} weights exactly "
            f"as they were ({', '.join(still[:3])}{', ...' if len(still) > 3 else ''}): their "
            "gradient is zero. Look for dead units, layers whose output is not used, or a stopped "
            "gradient.",
            len(still) / total,
        )


def unmoved(evidence: Evidence) -> tuple[list[str], int]:
    """Paths of the weights that the default's first steps left as they were, and all weights."""
    population, trunk = evidence.start.population, evidence.start.first_steps
    if trunk.step == 0 or trunk.diverged_at is not None:
        return [], 0
    before = population.trained(population.start(evidence.start.default))
    after = population.trained(trunk.state)
    variables = evidence.problem.model.trainable_variables
    still = [
        v.path
        for v, old, new in zip(variables, before, after, strict=True)
        if np.array_equal(old, new)
    ]
    return still, len(variables)
