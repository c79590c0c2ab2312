"""Gradients or activations that grow from layer to layer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from recommender.illnesses import Evidence, Finding, Illness, Mend, Moment
from recommender.illnesses.recurrent_unclipped import clipped
from recommender.illnesses.vanishing_gradients import depth_mends

# Of gradients from the last layer to the first, and of the activations' variance the other way.
RATIO, GROWTH = 1e3, 1e2


class ExplodingGradients(Illness):
    """Where every layer enlarges what comes in, one step's change is enlarged by all of them."""

    code: ClassVar[str] = "exploding_gradients"
    moment: ClassVar[Moment] = "start"
    source: ClassVar[str] = (
        "He et al., Delving Deep into Rectifiers, 2015, section 2.2; own thresholds"
    )

    def examine(self, evidence: Evidence) -> Finding | None:
        """Speaks on gradients over depth, and on activations from the first hidden layer on."""
        layers = evidence.start.layers
        if len(layers) < 3:
            return None
        first, second, last = layers[0], layers[1], layers[-1]
        ratio = first.gradient / last.gradient if last.gradient > 0 else 0.0
        growth = (last.activation / second.activation) ** 2 if second.activation > 0 else 0.0
        if ratio < RATIO and growth < GROWTH:
            return None
        seen = (
            f"The gradient at {first.name} is {ratio:.0g} times that at {last.name}"
            if ratio >= RATIO
            else f"The activations' variance grows {growth:.0g}-fold from {second.name} to "
            f"{last.name}"
        )
        return self.found(
            f"{seen}. Draw smaller first weights (He for ReLU, Glorot for tanh), normalise the "
            "layers, or clip gradients by their global norm.",
            max(ratio, growth),
        )

    def mends(self, evidence: Evidence, finding: Finding) -> Sequence[Mend]:
        """Suitable first weights, normalisation, clipping."""
        clip = Mend(
            self.code, "Clip gradients: global_clipnorm=1.0.", finding.text,
            setting=clipped, expected=0.05,
        )  # fmt: skip
        return [*depth_mends(self.code, finding.text), clip]
