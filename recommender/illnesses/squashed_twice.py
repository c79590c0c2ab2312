"""Probabilities that the loss takes for logits."""

from __future__ import annotations

from typing import Any, ClassVar

from recommender.illnesses import Evidence, Finding, Illness, Moment
from recommender.losses import is_squashed


class SquashedTwice(Illness):
    """Probabilities squashed once more leave a loss that cannot fall far."""

    code: ClassVar[str] = "squashed_twice"
    moment: ClassVar[Moment] = "data"
    plain: ClassVar[bool] = True
    order: ClassVar[int] = 0
    source: ClassVar[str] = "by definition"

    def examine(self, evidence: Evidence) -> Finding | None:
        """Speaks by the outputs themselves."""
        problem = evidence.problem
        if not expects_logits(problem.loss) or not is_squashed(problem.model, problem.x):
            return None
        return self.found(
            "The outputs are probabilities already and the loss has from_logits=True: they "
            "are squashed twice. Drop the last activation or set from_logits=False.",
            blocking=True,
        )


def expects_logits(loss: Any) -> bool | None:
    """Whether a loss takes logits; None where it is none of those that distinguish."""
    found: bool | None = getattr(loss, "from_logits", None)
    return getattr(loss, "_fn_kwargs", {}).get("from_logits") if found is None else found
