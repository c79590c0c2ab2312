"""Gradients that fade on the way to the first layers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from recommender import treatments
from recommender.illnesses import Evidence, Finding, Illness, Mend, Moment

# From the last layer to the first.
RATIO = 1e3


class VanishingGradients(Illness):
    """First layers stand still where their gradients are a thousandth of the last one's."""

    code: ClassVar[str] = "vanishing_gradients"
    moment: ClassVar[Moment] = "start"
    source: ClassVar[str] = (
        "Glorot, Bengio, Understanding the Difficulty of Training Deep Feedforward Neural "
        "Networks, 2010; own threshold"
    )

    def examine(self, evidence: Evidence) -> Finding | None:
        """Speaks on the gradients at the outputs of the first and of the last layer."""
        layers = evidence.start.layers
        if len(layers) < 3 or not layers[0].gradient > 0:
            return None
        ratio = layers[-1].gradient / layers[0].gradient
        if ratio < RATIO:
            return None
        return self.found(
            f"The gradient at {layers[0].name} is {ratio:.0g} times smaller than at "
            f"{layers[-1].name}. Normalise the layers, add residual connections, or draw first "
            "weights to suit the activation (He for ReLU, Glorot for tanh).",
            ratio,
        )

    def mends(self, evidence: Evidence, finding: Finding) -> Sequence[Mend]:
        """Normalisation, and suitable first weights."""
        return depth_mends(self.code, finding.text)


def depth_mends(code: str, reason: str) -> Sequence[Mend]:
    """What keeps gradients of one size over depth."""
    return [
        Mend(
            code, "Put LayerNormalization between each hidden layer and its activation.", reason,
            problem=treatments.normalised, expected=0.2,
        ),
        Mend(
            code, "Draw the first weights to suit the activation (He for ReLU, Glorot for others).",
            reason, problem=treatments.redrawn, expected=0.15,
        ),
    ]  # fmt: skip
