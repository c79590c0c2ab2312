"""Steps that a quadratic model of the loss proposes, and how good the model was."""

from __future__ import annotations

import dataclasses
from typing import Any

from keras import ops

from keras_gradopt.landscape import Landscape, dot, norm
from keras_gradopt.linesearch import Found, backtracking, rounding

Tensor = Any
# A gradient's norm below which a point may be a saddle, and negative curvature is the way on.
STATIONARY = 1e-3
# Losses that the search along a proposal may take.
SEARCH_EVALUATIONS = 20


@dataclasses.dataclass(frozen=True)
class Proposal:
    """A step, or a direction to search along, with what the model says of it.

    Attributes:
        direction: Where to go.
        slope: The gradient's product with it.
        curvature: The model's curvature along it, without damping.
    """

    direction: Tensor
    slope: Tensor
    curvature: Tensor

    def change(self, t: Any) -> Tensor:
        """What the model expects of `t` times the direction."""
        return t * self.slope + 0.5 * t * t * self.curvature


def newton_like(p: Tensor, g: Tensor, curvature: Tensor) -> Proposal:
    """A step that solves the damped model; `curvature` without the damping."""
    return Proposal(p, dot(g, p), curvature)


def escape(u: Tensor, g: Tensor, eigenvalue: Tensor) -> Proposal:
    """The side of a direction of negative curvature that does not go uphill, of unit length."""
    length = norm(u)
    u = u / ops.where(length > 0, length, 1.0)
    u = ops.where(dot(u, g) > 0, -u, u)
    return Proposal(u, dot(u, g), eigenvalue)


def better(first: Proposal, second: Proposal, allowed: Tensor) -> tuple[Proposal, Tensor]:
    """Of two proposals the one that promises more, the second only where it is allowed.

    Returns:
        The proposal, and whether it is the second.
    """
    takes = allowed & (second.change(1.0) < first.change(1.0))
    chosen = Proposal(
        ops.where(takes, second.direction, first.direction),
        ops.where(takes, second.slope, first.slope),
        ops.where(takes, second.curvature, first.curvature),
    )
    return chosen, takes


def searched(
    landscape: Landscape, w: Tensor, f: Tensor, proposal: Proposal, first: Any
) -> tuple[Found, Tensor, Tensor]:
    """The step that lowers the loss, how good the model was, and whether it is the end.

    Args:
        landscape: The loss.
        w: Where to begin.
        f: The loss there.
        proposal: Where to go.
        first: First trial, in units of the proposal.

    Returns:
        What was found, the reduction ratio, and whether no step was found because the model
        promises less than rounding makes of the loss.
    """

    def expected(t: Tensor) -> Tensor:
        # Without negative curvature the slope alone: a damped step falls short of the model's.
        return t * proposal.slope + 0.5 * t * t * ops.minimum(proposal.curvature, 0.0)

    found = backtracking(landscape, w, f, proposal.direction, expected, first, SEARCH_EVALUATIONS)
    change = proposal.change(found.step)
    ratio = (found.value - f) / ops.where(change < 0, change, -1.0)
    # Of a step cut short the model promised too much in any case.
    whole = found.success & (found.step >= first)
    ratio = ops.where(whole, ratio, ops.minimum(ratio, 0.0))
    # Differences that are rounding say nothing.
    blurred = ops.abs(change) <= 10 * rounding(f)
    exhausted = ~found.success & (ops.abs(proposal.change(first)) <= 10 * rounding(f))
    return found, ops.where(whole & blurred, 0.5, ratio), exhausted
