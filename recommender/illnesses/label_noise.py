"""Labels that a trained model contradicts with confidence."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from recommender.illnesses import Evidence, Finding, Illness, Mend, Moment
from recommender.illnesses.squashed_twice import expects_logits

SHARE = 0.05
# A model that is hardly better than guessing says nothing about labels.
LEAST_SKILL = 0.25


class LabelNoise(Illness):
    """Training examples that the leader, early in its training, puts into another class for sure.

    An example counts where the probability of a class other than its label is at least what
    examples of that class usually get. On seven recorded tasks where it speaks, smoothing labels by
    0.1 raised the validation loss of short trainings by 14 to 22 % on five and did nothing on two,
    and weight decay of 0.3 raised it by 1 to 13 % on three, so neither is proposed.
    """

    code: ClassVar[str] = "label_noise"
    moment: ClassVar[Moment] = "race"
    plain: ClassVar[bool] = True
    order: ClassVar[int] = 30
    source: ClassVar[str] = (
        "Northcutt, Jiang, Chuang, Confident Learning, JAIR 2021, section 3.1; own threshold"
    )

    def examine(self, evidence: Evidence) -> Finding | None:
        """Speaks on the share of confident contradictions among training rows."""
        found = _probabilities(evidence)
        if found is None:
            return None
        share, skill = contradicted(*found)
        if share < SHARE or skill < LEAST_SKILL:
            return None
        return self.found(
            f"About {share:.0%} of the training labels are contradicted with confidence: labels "
            "may be wrong, or classes overlap. Look through these rows, stop early, and do not "
            "chase the training loss.",
            share,
        )

    def mends(self, evidence: Evidence, finding: Finding) -> Sequence[Mend]:
        """Words: what short trainings can show did not help."""
        return [
            Mend(self.code, "Look through the contradicted rows, and stop early.", finding.text)
        ]


def _probabilities(evidence: Evidence) -> tuple[NDArray[np.float64], NDArray[np.int64]] | None:
    """Probabilities and labels of training rows with a single label."""
    held = evidence.after.in_order
    if evidence.description.task not in ("classification", "binary") or held is None:
        return None
    outputs = held.outputs
    if outputs.ndim != 2:
        return None
    logits = bool(expects_logits(evidence.problem.loss))
    if outputs.shape[1] == 1:
        one = 1 / (1 + np.exp(-np.clip(outputs, -60, 60))) if logits else outputs
        outputs = np.hstack([1 - one, one])
    elif evidence.description.task == "binary":
        return None  # several labels at once
    elif logits:
        shifted = np.exp(outputs - outputs.max(1, keepdims=True))
        outputs = shifted / shifted.sum(1, keepdims=True)
    labels = held.targets
    if labels.ndim == 2 and labels.shape[1] == outputs.shape[1] > 1 and labels.shape[1] != 1:
        labels = labels.argmax(1)
    return outputs, labels.reshape(len(outputs)).astype(int)


def contradicted(
    probabilities: NDArray[np.float64], labels: NDArray[np.int64]
) -> tuple[float, float]:
    """Share of labels contradicted with confidence, and how far the model is from guessing.

    Args:
        probabilities: Of each class; shape (rows, classes).
        labels: Of each row.

    Returns:
        The share; and the accuracy's way from that of the most frequent class to 1.
    """
    classes = probabilities.shape[1]
    usual = np.array(
        [
            probabilities[labels == c, c].mean() if (labels == c).any() else 2.0
            for c in range(classes)
        ]
    )
    sure = np.where(probabilities >= usual, probabilities, -1.0)
    says = sure.argmax(1)
    share = float(np.mean((sure.max(1) >= 0) & (says != labels)))
    guess = float(np.bincount(labels, minlength=classes).max() / len(labels))
    right = float(np.mean(probabilities.argmax(1) == labels))
    return share, (right - guess) / (1 - guess) if guess < 1 else 0.0
