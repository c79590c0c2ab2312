"""Advice: the answer with its evidence, as an optimizer, as code, as JSON and as a report."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import keras
from rich.console import Console

from recommender import answer
from recommender.budget import Cost
from recommender.candidates import Candidate
from recommender.decision import Decision
from recommender.description import Description
from recommender.diagnostics import Diagnostics
from recommender.forecast import Forecast
from recommender.presentation.content import document, summary
from recommender.presentation.terminal import Terminal
from recommender.probes import ProbeResult

if TYPE_CHECKING:
    import plotly.graph_objects as go


@dataclass(frozen=True, eq=False, repr=False)
class Advice:
    """What to train with, why, and what it cost to find out.

    Attributes:
        decision: The choice and its grounds.
        candidates: Everything that was considered, in order.
        results: The probes.
        description: Facts about model and data.
        diagnostics: Checks made before the race; None in the instant tier.
        expected: The record of decisions on the same grounds.
        nearest: Recorded tasks most like this one: name, summary and weight.
        cost: What was spent.
        full_steps: Length of the training that the advice is for.
        evidence: "measured", "prior" or "synthetic".
        notes: Remarks on how the answer was found.
        versions: What the answer depends on.
        tier, seed: As asked for.
    """

    decision: Decision
    candidates: tuple[Candidate, ...]
    results: tuple[ProbeResult, ...]
    description: Description
    diagnostics: Diagnostics | None
    expected: Forecast
    nearest: tuple[tuple[str, str, float], ...]
    cost: Cost
    full_steps: int
    evidence: str
    notes: tuple[str, ...]
    versions: dict[str, str]
    tier: str
    seed: int

    def optimizer(self, total_steps: int | None = None) -> keras.optimizers.Optimizer:
        """A fresh optimizer with its schedule, ready for `model.compile`.

        Args:
            total_steps: Length of the training, at least 1; None is the one asked about. The
                cooldown stretches with it.
        """
        steps = self.full_steps if total_steps is None else total_steps
        if steps < 1:
            raise ValueError(f"total_steps must be at least 1, received {total_steps!r}.")
        return make_optimizer(self.decision.candidate, steps)

    @property
    def code(self) -> str:
        """Python text that makes the same optimizer; runs as it stands on every backend."""
        return make_code(self.decision.candidate, self.full_steps)

    @property
    def _steps_of_fit(self) -> int:
        """Steps of the training as advised."""
        fit = self.decision.candidate.fit
        if fit is None:
            return self.full_steps
        return fit.epochs * math.ceil(self.description.samples / fit.batch_size)

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain data, ready for JSON."""
        chosen = self.decision.candidate
        findings = self.diagnostics.findings if self.diagnostics else ()
        outcomes = self.diagnostics.outcomes if self.diagnostics else ()
        return answer.answer(
            recommended=answer.recommended(
                chosen.label,
                config_of(self.optimizer()),
                chosen.setting.learning_rate,
                chosen.shape,
                self._steps_of_fit,
                self.code,
                dataclasses.asdict(chosen.fit) if chosen.fit else None,
            ),
            decision=self.decision.to_dict(),
            expected=self.expected.to_dict(),
            evidence=self.evidence,
            probes=[r.to_dict() for r in self.results],
            diagnostics=self.diagnostics.to_dict() if self.diagnostics else None,
            description=self.description.to_dict(),
            nearest=self.nearest,
            notes=self.notes,
            alternatives=[c.to_dict(c.label) for c in self.candidates if c != chosen],
            cost=self.cost.to_dict(),
            findings=[{"code": f.code, "text": f.text, "blocking": f.blocking} for f in findings],
            changes=[outcome.to_dict() for outcome in outcomes],
            request={"tier": self.tier, "seed": self.seed},
            versions=self.versions,
        )

    def save_report(self, path: str | Path, figures: Sequence[go.Figure] = ()) -> Path:
        """Write one self-contained page with plots.

        Args:
            path: Where to; the folder must exist.
            figures: Further plots to show first, such as full trainings.

        Returns:
            The path.
        """
        from recommender.presentation.page import page

        target = Path(path)
        target.write_text(page(document(self), self.to_dict(), figures), encoding="utf-8")
        return target

    def show(self, console: Console | None = None) -> None:
        """Print the whole report to a terminal.

        Args:
            console: Where to; None is standard output, in colours where it has them.
        """
        (console or Console()).print(self)

    def __rich__(self) -> Terminal:
        return Terminal(document(self))

    def __str__(self) -> str:
        return summary(self)

    def __repr__(self) -> str:
        label = self.decision.candidate.label
        return f"<Advice: {label}; tier {self.tier}, {self.evidence}>"

    def _repr_html_(self) -> str:
        """What a notebook shows: the answer, and the evidence folded below it."""
        from recommender.presentation.page import fragment

        return fragment(document(self))


def make_optimizer(candidate: Candidate, steps: int) -> keras.optimizers.Optimizer:
    """The optimizer of a candidate with its schedule over `steps` steps."""
    if candidate.role == "default":
        return keras.optimizers.Adam(learning_rate=candidate.setting.learning_rate)
    if candidate.shape == "constant":
        return candidate.setting.optimizer()
    import keras_gradopt

    return candidate.setting.optimizer(
        keras_gradopt.schedules.WarmupStableDecay(
            candidate.setting.learning_rate, **answer.schedule_parts(candidate.shape, steps)
        )
    )


def config_of(optimizer: keras.optimizers.Optimizer) -> dict[str, Any]:
    """What `keras.optimizers.deserialize` takes, without the name that Keras counts up."""
    config: dict[str, Any] = keras.saving.serialize_keras_object(optimizer)
    config["config"]["name"] = None
    if type(optimizer).__module__.startswith("keras."):
        # On torch Keras names a private class of its own, which other backends cannot load.
        config |= {"module": "keras.optimizers", "registered_name": None}
    return config


def make_code(candidate: Candidate, steps: int) -> str:
    """Python text that makes the same optimizer."""
    if candidate.role == "trial":
        arguments = [("learning_rate", candidate.setting.learning_rate), *candidate.setting.config]
        fit = candidate.fit
        sizes = (fit.batch_size, fit.epochs) if fit else (None, None)
        return answer.bound_code(candidate.setting.class_name, arguments, *sizes)
    return answer.code(
        candidate.setting.class_name,
        candidate.setting.learning_rate,
        candidate.setting.config,
        candidate.shape,
        steps,
        keras_default=candidate.role == "default",
    )
