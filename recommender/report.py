"""Advice: the answer with its evidence, as an optimizer, as code, as JSON and as a page."""

from __future__ import annotations

import dataclasses
import html
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np
import plotly.graph_objects as go

from recommender import answer
from recommender.budget import Cost
from recommender.candidates import Candidate
from recommender.decision import Decision
from recommender.description import Description
from recommender.diagnostics import Diagnostics
from recommender.forecast import Forecast
from recommender.probes import ProbeResult

# Minibatch losses are averaged over this many steps in plots.
SMOOTHING = 8
_COLOURS = ("#888888", "#0a7d5a", "#c8531c", "#4062bb", "#9a3fb5", "#b8860b", "#2f9fb0", "#b03060")


@dataclass(frozen=True, eq=False)
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
        target = Path(path)
        target.write_text(self._page(figures), encoding="utf-8")
        return target

    def _page(self, figures: Sequence[go.Figure]) -> str:
        shown = [*figures]
        if any(r.rungs for r in self.results):
            shown.append(probe_figure(self.results))
        shown.append(schedule_figure(self.decision.candidate, self.full_steps))
        plots = "".join(
            figure.to_html(full_html=False, include_plotlyjs=position == 0)
            for position, figure in enumerate(shown)
        )
        findings = self.diagnostics.findings if self.diagnostics else ()
        rows = "".join(
            f"<tr><td>{html.escape(r.setting.label)}</td><td>{_last(r)}</td>"
            f"<td>{html.escape(r.stopped)}</td></tr>"
            for r in self.results
        )
        expected = self.expected
        low, middle, high = expected.loss_ratio
        return _PAGE.format(
            title=html.escape(f"Train with {self.decision.candidate.label}"),
            plots=plots,
            reasons=_items(self.decision.reasons),
            warnings=_items([f.text for f in findings]) or "<li>none</li>",
            rows=rows or "<tr><td colspan=3>no probes</td></tr>",
            odds=(
                f"The best validation loss is expected at {middle:.2f} times that of Keras' "
                f"default, with 80 % between {low:.2f} and {high:.2f}; odds of beating the "
                f"default: {expected.p_beats_default:.0%} ({expected.confidence} confidence), "
                f"from {expected.tasks} recorded tasks, those most like this one first."
            ),
            cost=(
                f"{self.cost.fraction_of_full:.1%} of one full training of {self.full_steps} "
                f"steps, {self.cost.seconds:.0f} s, of which {self.cost.compile_seconds:.0f} s "
                "compiling"
            ),
            notes=_items([f"evidence: {self.evidence}", *self.notes]),
            code=html.escape(self.code),
            json=html.escape(json.dumps(self.to_dict(), indent=1)),
        )


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


def probe_figure(results: Sequence[ProbeResult]) -> go.Figure:
    """Minibatch loss along each trunk, and validation loss after the cooldown at each rung."""
    figure = go.Figure()
    for number, result in enumerate(results):
        name, colour = result.setting.label, _COLOURS[number % len(_COLOURS)]
        losses = np.asarray(result.losses[: result.diverged_at], np.float64)
        if len(losses) > SMOOTHING:
            mean = np.convolve(losses, np.full(SMOOTHING, 1 / SMOOTHING), mode="valid")
            figure.add_scatter(
                x=np.arange(SMOOTHING, len(losses) + 1), y=mean, mode="lines", name=name,
                legendgroup=name, line={"color": colour, "width": 1.5},
            )  # fmt: skip
        finite = [r for r in result.rungs if math.isfinite(r.loss)]
        figure.add_scatter(
            x=[r.step for r in finite], y=[r.loss for r in finite], mode="markers",
            name=f"{name}, validation", legendgroup=name, showlegend=len(losses) <= SMOOTHING,
            marker={"color": colour, "size": 10, "symbol": "diamond"},
        )  # fmt: skip
    title = "Probes: minibatch loss (lines) and validation loss after a cooldown (diamonds)"
    return _styled(figure, title, "steps", "loss").update_yaxes(type="log")


def schedule_figure(candidate: Candidate, steps: int) -> go.Figure:
    """The advised learning rate over the training."""
    parts = answer.schedule_parts(candidate.shape, steps)
    peak = candidate.setting.learning_rate
    xs = [0, parts["stable_steps"], steps] if parts else [0, steps]
    ys = [peak, peak, 0.0] if parts else [peak, peak]
    figure = go.Figure(go.Scatter(x=xs, y=ys, mode="lines", name="learning rate"))
    return _styled(figure, "Advised learning rate", "steps", "learning rate")


def _styled(figure: go.Figure, title: str, x: str, y: str) -> go.Figure:
    return figure.update_layout(
        title=title, xaxis_title=x, yaxis_title=y, template="plotly_white", height=380,
        showlegend=True,
    )  # fmt: skip


def _items(texts: Sequence[str]) -> str:
    return "".join(f"<li>{html.escape(text)}</li>" for text in texts)


def _last(result: ProbeResult) -> str:
    if not result.rungs:
        return "-"
    last = result.rungs[-1]
    return f"{last.loss:.4g} at step {last.step}" if math.isfinite(last.loss) else "diverged"


_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{title}</title>
<meta name="viewport" content="width=device-width, initial-scale=1">
<style>
body {{ font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto }}
pre {{ background: #f4f4f4; padding: 1rem; overflow-x: auto }}
td, th {{ text-align: left; padding: .2rem 1rem .2rem 0; border-bottom: 1px solid #ddd }}
</style></head><body>
<h1>{title}</h1>
<pre>{code}</pre>
<h2>Why</h2><ul>{reasons}</ul>
<p>{odds}</p>
<h2>Look at this first</h2><ul>{warnings}</ul>
{plots}
<h2>What was probed</h2>
<table><tr><th>candidate</th><th>validation loss</th><th>how far it went</th></tr>{rows}</table>
<h2>What it cost</h2><p>{cost}</p><ul>{notes}</ul>
<details><summary>All of it as JSON</summary><pre>{json}</pre></details>
</body></html>
"""
