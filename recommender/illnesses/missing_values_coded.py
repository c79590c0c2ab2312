"""Numbers that stand for "missing"."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import keras

from recommender import treatments
from recommender.illnesses import Evidence, Finding, Illness, Mend, Moment

SPARSE = 0.8


class MissingValuesCoded(Illness):
    """A mark such as -999 among measurements is the largest number of its column."""

    code: ClassVar[str] = "missing_values_coded"
    moment: ClassVar[Moment] = "data"
    source: ClassVar[str] = "own: an extreme that repeats, five deviations off the rest"

    def examine(self, evidence: Evidence) -> Finding | None:
        """Speaks on columns with such a value."""
        if evidence.description.zero_share > SPARSE:
            return None  # where most is 0, rare large values are ordinary
        tables = [t for t in keras.tree.flatten(evidence.problem.x) if treatments.is_table(t)]
        marked = {i: mark for t in tables for i, mark in treatments.marks(t[:5000]).items()}
        if not marked:
            return None
        column, mark = next(iter(marked.items()))
        return self.found(
            f"{len(marked)} columns hold a value far off all others again and again (column "
            f"{column}: {mark:g}), as if it stood for 'missing'. Replace it by the column's "
            "median, and add a column that says where it stood.",
            float(len(marked)),
        )

    def mends(self, evidence: Evidence, finding: Finding) -> Sequence[Mend]:
        """Medians in place of marks."""
        change = "Replace marks of missing values by their column's median."
        return [Mend(self.code, change, finding.text, problem=treatments.filled, expected=0.1)]
