"""The verdict: what measured numbers of a point say that it is, and what to do about it."""

from __future__ import annotations

import dataclasses
from typing import Literal

Kind = Literal["minimum", "saddle", "plateau", "still descending"]

# Shares of the loss, all measured but FLAT's, which goes by derivatives.
DESCENT = 1e-2  # a step that lowers the loss by more: it is still descending
ESCAPE = 1e-3  # a step along negative curvature that lowers the loss by more: a saddle
FLAT = 1e-3  # within a tenth of the weights' norm the loss changes by less: a plateau
# A second-order step that gains so many times a gradient step: conditioning is what costs.
ILL_CONDITIONED = 3.0


@dataclasses.dataclass(frozen=True)
class Numbers:
    """What the verdict is made from.

    Attributes:
        loss: At the point.
        gradient_share: By how much the best gradient step lowers the loss, relative to it.
        newton_share: The same for a second-order step.
        change: Estimate of the largest relative change of the loss within a tenth of the weights'
            norm, from the gradients of rows and the largest absolute eigenvalue.
        smallest: The smallest eigenvalue.
        error: Of it.
        escape_share: By how much a step along its eigenvector lowers the loss, relative to it.
        escape_step: That step's length, signed.
        largest_absolute: The largest absolute eigenvalue.
    """

    loss: float
    gradient_share: float
    newton_share: float
    change: float
    smallest: float
    error: float
    escape_share: float
    escape_step: float
    largest_absolute: float

    @property
    def is_negative(self) -> bool:
        """Whether the smallest eigenvalue is negative beyond its error."""
        return self.smallest + self.error < 0


def judge(n: Numbers) -> tuple[Kind, str]:
    """What the point is, and a sentence that says why."""
    lowest = f"lambda_min = {n.smallest:.2g} ± {n.error:.1g}"
    if n.change < FLAT:
        return "plateau", (
            f"Plateau: within a tenth of the weights' norm the loss, {n.loss:.3g}, changes by "
            f"about {_percent(n.change)} at most; neither gradient nor curvature leads anywhere."
        )
    if max(n.gradient_share, n.newton_share) > DESCENT:
        also = f"; {lowest} is negative besides" if n.is_negative else ""
        return "still descending", (
            f"Still descending: a gradient step lowers the loss, {n.loss:.3g}, by "
            f"{_percent(n.gradient_share)}, a second-order step by "
            f"{_percent(n.newton_share)}{also}."
        )
    if n.is_negative and n.escape_share > ESCAPE:
        lower = n.loss - n.escape_share * abs(n.loss)
        return "saddle", (
            f"Saddle: the gradient gives {_percent(max(n.gradient_share, n.newton_share))}, but "
            f"{lowest}, and a step of {abs(n.escape_step):.2g} along its eigenvector lowers the "
            f"loss from {n.loss:.3g} to {lower:.3g}, by {_percent(n.escape_share)}."
        )
    settled = _percent(max(n.gradient_share, n.newton_share))
    if n.is_negative:
        why = f"{lowest} is negative, but a step along it gives {_percent(n.escape_share)} only"
    elif n.smallest > n.error:
        why = f"{lowest} is positive"
    else:
        why = f"{lowest} is 0 within its error: the minimum is flat in some direction"
    return "minimum", (
        f"Minimum: neither a gradient nor a second-order step lowers the loss, {n.loss:.3g}, by "
        f"more than {settled}, and {why}."
    )


def suggestion(kind: Kind, n: Numbers) -> str:
    """What to do at a point of this kind."""
    if kind == "plateau":
        return (
            "Look for saturated or dead units (callbacks.GradientMonitor), other initial weights "
            "or normalisation; an adaptive optimizer's steps do not shrink with the gradient."
        )
    if kind == "saddle":
        return (
            "Step along escape.direction, or go on with an optimizer that follows negative "
            "curvature (SaddleFreeNewton, NewtonCG); smaller batches help to leave, too."
        )
    if kind == "minimum":
        return "More training on this loss gains little: a lower one takes other data or model."
    if n.newton_share > ILL_CONDITIONED * n.gradient_share:
        return (
            f"A second-order step gains {n.newton_share / max(n.gradient_share, 1e-12):.2g} times "
            "a gradient step: conditioning is what costs. Take a second-order optimizer (LBFGS, "
            "NewtonCG, KFAC, Shampoo) or an adaptive one (Adam)."
        )
    return "Train on: gradient steps gain about as much as second-order ones."


def _percent(share: float) -> str:
    return f"{100 * share:.2g} %"
