"""A valley: far steeper in some directions than in most."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from recommender.illnesses import Evidence, Finding, Illness, Mend, Moment
from recommender.remedies import settings

# The largest eigenvalue over the middle one.
RATIO = 1000.0


class PathologicalCurvature(Illness):
    """Plain descent's rate is set by the steepest direction, its progress by all others."""

    code: ClassVar[str] = "pathological_curvature"
    moment: ClassVar[Moment] = "start"
    order: ClassVar[int] = 90
    hint: ClassVar[bool] = True
    source: ClassVar[str] = (
        "Nocedal, Wright, Numerical Optimization, 2006, theorem 3.3; own threshold"
    )

    def examine(self, evidence: Evidence) -> Finding | None:
        """Speaks on the Hessian's largest eigenvalue over the middle one."""
        if "recurrent" in evidence.description.tags:
            return None  # second derivatives through time take long to compile
        spectrum = evidence.start.spectrum
        if not spectrum.typical > 0 or not spectrum.largest > RATIO * spectrum.typical:
            return None
        ratio = spectrum.largest / spectrum.typical
        names = ", ".join(s.label for s in settings(self.code))
        return self.found(
            f"The steepest direction is {ratio:.0f} times as curved as a typical one. Adaptive "
            f"rules, momentum and second-order rules move along such valleys: {names}.",
            ratio,
        )

    def mends(self, evidence: Evidence, finding: Finding) -> Sequence[Mend]:
        """Rules that adapt, remember, or see curvature."""
        return self.instead(finding, 0.15)
