"""Classes of very different frequency."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import numpy as np

from recommender import treatments
from recommender.illnesses import Evidence, Finding, Illness, Mend, Moment

# Times that the most frequent class outnumbers the rarest that occurs.
RATIO = 10.0


class ClassImbalance(Illness):
    """A model spends its first steps on learning frequencies that the last bias can hold at once.

    Rare classes have small gradients: rules that take steps of equal size for all weights learn
    them sooner than plain descent.
    """

    code: ClassVar[str] = "class_imbalance"
    moment: ClassVar[Moment] = "data"
    plain: ClassVar[bool] = True
    hint: ClassVar[bool] = True
    source: ClassVar[str] = (
        "Kunstner et al., Heavy-Tailed Class Imbalance and Why Adam Outperforms Gradient Descent "
        "on Language Models, 2024; the ratio is our own measurement"
    )

    def examine(self, evidence: Evidence) -> Finding | None:
        """Speaks on the ratio of class frequencies."""
        counts = frequencies(evidence)
        if counts is None or len(counts) < 2:
            return None
        ratio = float(counts.max() / counts.min())
        if ratio < RATIO:
            return None
        return self.found(
            f"The most frequent class has {ratio:.0f} times the examples of the rarest. Start the "
            "last layer's bias at the logarithm of the class frequencies, prefer rules of the Adam "
            "family, and watch a metric other than accuracy. Class weights change what the loss "
            "means: take them only where errors on rare classes cost more.",
            ratio,
        )

    def mends(self, evidence: Evidence, finding: Finding) -> Sequence[Mend]:
        """First outputs at the class frequencies."""
        if treatments.head(evidence.problem.model) is None:
            return ()
        change = "Start the last layer's bias at the logarithm of the class frequencies."
        return [
            Mend(
                self.code, change, finding.text, problem=treatments.with_class_frequencies,
                expected=0.05,
            )
        ]  # fmt: skip


def frequencies(evidence: Evidence) -> np.ndarray | None:
    """Examples per class that occurs; None outside of classification."""
    y = evidence.problem.y
    task, loss = evidence.description.task, type(evidence.problem.loss).__name__
    if task not in ("classification", "binary") or not isinstance(y, np.ndarray):
        return None
    if loss == "CategoricalCrossentropy":
        counts = y.reshape(-1, y.shape[-1]).sum(0)
    elif task == "binary" and y.size != len(y):
        return None  # several labels at once
    else:
        counts = np.bincount(y.ravel().astype(int))
    found: np.ndarray = counts[counts > 0]
    return found
