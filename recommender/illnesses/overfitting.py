"""A model that knows the training rows better than the rule behind them."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import ClassVar

import numpy as np

from recommender.illnesses import Evidence, Finding, Illness, Mend, Moment
from recommender.remedies import class_names
from recommender.settings import Setting

# Validation loss over training loss, at the same weights and without dropout.
RATIO = 1.3
DECAY = ("weight_decay", 0.3)


class Overfitting(Illness):
    """The gap between both losses, at one and the same weights, beyond the noise of both."""

    code: ClassVar[str] = "overfitting"
    moment: ClassVar[Moment] = "race"
    order: ClassVar[int] = 20
    source: ClassVar[str] = (
        "Prechelt, Early Stopping - But When?, 1998; own measurement of the threshold"
    )

    def examine(self, evidence: Evidence) -> Finding | None:
        """Speaks on the mean losses of rows that were trained on, and of rows that were not."""
        seen, held = evidence.after.in_order, evidence.after.held_out
        if seen is None or held is None or seen.losses is None or held.losses is None:
            return None
        low, high = float(np.mean(seen.losses)), float(np.mean(held.losses))
        error = np.hypot(*(np.std(r) / np.sqrt(len(r)) for r in (seen.losses, held.losses)))
        if not low > 0 or high < RATIO * low or high - low < 3 * error:
            return None
        steps = evidence.after.leader.setting.label if evidence.after.leader else ""
        return self.found(
            f"After a few steps ({steps}) the validation loss is already {high / low:.1f} times "
            "the training loss. Keep the weights of the lowest validation loss (early stopping), "
            "raise weight decay, add dropout or augmentation, or look for flat minima "
            f"({class_names('sharp_minimum')}, which needs keras_gradopt.bind).",
            high / low,
        )

    def mends(self, evidence: Evidence, finding: Finding) -> Sequence[Mend]:
        """Weight decay."""
        change = f"Add weight decay: {DECAY[0]}={DECAY[1]:g} of any optimizer."
        return [Mend(self.code, change, finding.text, setting=decayed, expected=0.1)]


def decayed(setting: Setting) -> Setting:
    """The same setting with decoupled weight decay."""
    kept = [(name, value) for name, value in setting.config if name != DECAY[0]]
    return dataclasses.replace(setting, config=tuple(sorted([*kept, DECAY])))
