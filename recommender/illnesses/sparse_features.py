"""Features that are mostly absent."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from recommender.illnesses import Evidence, Finding, Illness, Mend, Moment
from recommender.remedies import settings

ZEROS = 0.8


class SparseFeatures(Illness):
    """A rare feature's weights move only when it occurs: a rule that gives them larger steps."""

    code: ClassVar[str] = "sparse_features"
    moment: ClassVar[Moment] = "data"
    hint: ClassVar[bool] = True
    source: ClassVar[str] = "Duchi, Hazan, Singer, Adaptive Subgradient Methods, JMLR 2011"

    def examine(self, evidence: Evidence) -> Finding | None:
        """Speaks on the share of zeros in tables, and on embeddings."""
        description = evidence.description
        table = len(description.input_shape) == 1 and description.zero_share > ZEROS
        if not table and "Embedding" not in description.layers:
            return None
        seen = (
            f"{description.zero_share:.0%} of the inputs are 0" if table else "Inputs are embedded"
        )
        names = ", ".join(s.class_name for s in settings(self.code))
        return self.found(
            f"{seen}: rare features' weights move rarely. {names} gives them larger steps; keep "
            "weight decay off embeddings.",
            description.zero_share,
        )

    def mends(self, evidence: Evidence, finding: Finding) -> Sequence[Mend]:
        """The rule made for it."""
        return self.instead(finding, 0.0)
