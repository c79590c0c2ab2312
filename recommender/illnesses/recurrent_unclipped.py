"""Recurrent layers, whose gradients are products over time."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import ClassVar

from recommender.illnesses import Evidence, Finding, Illness, Mend, Moment
from recommender.settings import Setting

CLIP = ("global_clipnorm", 1.0)
# Shorter sequences multiply too little to explode.
STEPS = 20


class RecurrentUnclipped(Illness):
    """Products over time explode now and then; a clipped norm keeps such a step short."""

    code: ClassVar[str] = "recurrent_unclipped"
    moment: ClassVar[Moment] = "data"
    hint: ClassVar[bool] = True
    source: ClassVar[str] = (
        "Pascanu, Mikolov, Bengio, On the Difficulty of Training Recurrent Neural Networks, 2013"
    )

    def examine(self, evidence: Evidence) -> Finding | None:
        """Speaks on recurrent layers over long sequences."""
        description = evidence.description
        length = description.input_shape[0] if description.input_shape else 0
        if "recurrent" not in description.tags or length < STEPS:
            return None
        return self.found(
            f"Gradients go back through {length} time steps. Clip them by their global norm "
            "(global_clipnorm=1.0 of any optimizer).",
            float(length),
        )

    def mends(self, evidence: Evidence, finding: Finding) -> Sequence[Mend]:
        """The same rule, clipped."""
        return [
            Mend(
                self.code, "Clip gradients: global_clipnorm=1.0.", finding.text,
                setting=clipped, expected=0.0,
            )
        ]  # fmt: skip


def clipped(setting: Setting) -> Setting:
    """The same setting with its gradients' global norm clipped."""
    kept = [(name, value) for name, value in setting.config if name != CLIP[0]]
    return dataclasses.replace(setting, config=tuple(sorted([*kept, CLIP])))
