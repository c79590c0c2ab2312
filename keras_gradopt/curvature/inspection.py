"""Inspection: what was measured at a point, as a record that prints, plots and judges."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import numpy as np

from keras_gradopt.curvature import verdict as verdicts
from keras_gradopt.curvature.conditioning import ConditionNumber
from keras_gradopt.curvature.density import SpectralDensity
from keras_gradopt.curvature.descent import Descent
from keras_gradopt.curvature.eigenpairs import Eigenpairs
from keras_gradopt.curvature.hutchinson import Estimate
from keras_gradopt.curvature.noise import NoiseScale
from keras_gradopt.curvature.plots import finish, graph_objects
from keras_gradopt.curvature.stability import Stability


@dataclasses.dataclass(frozen=True)
class Inspection:
    r"""What was measured at a point, and the verdict; it prints as a table.

    Attributes:
        kind: "minimum", "saddle", "plateau" or "still descending".
        verdict: One sentence with the numbers behind it.
        suggestion: What to do, in a sentence or two.
        loss: At the weights.
        gradient_norm: Of the loss over all data.
        eigenpairs: The largest and the smallest eigenvalue, with residuals and eigenvectors.
        trace: The sum of the eigenvalues, with its standard error.
        condition: The condition number, with bounds.
        stability: The largest eigenvalue times the learning rate, with its limit.
        noise: The gradient noise scale; None of fewer than three rows.
        gradient_step: The loss down the gradient; None where the gradient is 0.
        second_order_step: The loss along a saddle-free Newton step; None where there is none.
        escape: The loss along the direction of negative curvature; None where no eigenvalue is
            negative beyond its error.
        spectrum: The density of the eigenvalues; None where it was not asked for.
        weights: Weights that were looked at.
        rows: Rows of the data.
        cost: In gradients over all data.
    """

    kind: verdicts.Kind
    verdict: str
    suggestion: str
    loss: float
    gradient_norm: float
    eigenpairs: Eigenpairs
    trace: Estimate
    condition: ConditionNumber
    stability: Stability
    noise: NoiseScale | None
    gradient_step: Descent | None
    second_order_step: Descent | None
    escape: Descent | None
    spectrum: SpectralDensity | None
    weights: int
    rows: int
    cost: float

    def __str__(self) -> str:
        values, errors = self.eigenpairs.values, self.eigenpairs.errors
        settled = "" if self.eigenpairs.converged else " (not converged: more max_products)"
        rows = {
            "loss": f"{self.loss:.4g}",
            "gradient norm": f"{self.gradient_norm:.3g}",
            "largest eigenvalue": f"{values[0]:.4g} ± {errors[0]:.1g}{settled}",
            "smallest eigenvalue": f"{values[-1]:.4g} ± {errors[-1]:.1g}{settled}",
            "trace": str(self.trace),
            "condition number": str(self.condition),
            "sharpness x learning rate": str(self.stability),
            "gradient noise scale": "too few rows" if self.noise is None else str(self.noise),
            "gradient step": _said(self.gradient_step),
            "second-order step": _said(self.second_order_step),
            "negative curvature": "none" if self.escape is None else _said(self.escape),
        }
        width = max(map(len, rows))
        table = "\n".join(f"  {name:<{width}}  {text}" for name, text in rows.items())
        return (
            f"{self.verdict}\n{self.suggestion}\n\n{table}\n\n"
            f"{self.weights} weights, {self.rows} rows, at the cost of {self.cost:.0f} gradients."
        )

    def to_dict(self) -> dict[str, Any]:
        """Everything but directions and the spectrum's nodes, ready for JSON."""
        left_out = {"direction", "vectors", "nodes", "weights"}

        def plain(value: Any) -> Any:
            if dataclasses.is_dataclass(value):
                fields = dataclasses.fields(value)
                return {
                    f.name: plain(getattr(value, f.name))
                    for f in fields
                    if f.name not in left_out or value is self
                }
            if isinstance(value, np.ndarray):
                return [plain(v) for v in value.tolist()]
            # JSON knows no infinity.
            return None if isinstance(value, float) and not math.isfinite(value) else value

        found: dict[str, Any] = plain(self)
        return found

    def plot(self, path: str | Path | None = None) -> Any:
        """The loss along the directions that were tried, and the spectrum if there is one.

        Args:
            path: Where to write the figure as an HTML page; None writes nothing.

        Returns:
            A `plotly.graph_objects.Figure`.

        Raises:
            ImportError: plotly is not installed.
        """
        go = graph_objects("Inspection.plot")
        from plotly.subplots import make_subplots

        titles = ["Loss along directions", "Eigenvalues of the curvature"]
        columns = 1 if self.spectrum is None else 2
        figure = make_subplots(rows=1, cols=columns, subplot_titles=titles[:columns])
        lowest = self.loss
        for name, line in (
            ("gradient", self.gradient_step),
            ("second order", self.second_order_step),
            ("negative curvature", self.escape),
        ):
            if line is not None:
                steps = np.append(line.steps, 0.0)
                order, losses = np.argsort(steps), np.append(line.losses, self.loss)
                lowest = min(lowest, float(np.nanmin(losses)))
                curve = go.Scatter(x=steps[order], y=losses[order], mode="lines+markers", name=name)
                figure.add_trace(curve, row=1, col=1)
        figure.update_xaxes(title_text="distance", row=1, col=1)
        scale = "log" if lowest > 0 else "linear"
        figure.update_yaxes(title_text="loss", type=scale, row=1, col=1)
        if self.spectrum is not None:
            for curve in self.spectrum.plot().data:
                figure.add_trace(curve, row=1, col=2)
            figure.update_xaxes(title_text="eigenvalue", row=1, col=2)
            figure.update_yaxes(title_text="density", type="log", row=1, col=2)
        return finish(figure, path, f"{self.kind.capitalize()}, loss {self.loss:.3g}")


def _said(line: Descent | None) -> str:
    if line is None:
        return "none"
    if not line.lowers:
        return "does not lower the loss"
    return f"lowers the loss by {line.decrease:.3g} ({100 * line.share:.2g} %) at {line.step:.2g}"
