"""Line searches that all rules share which search along a direction."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

from keras import ops

from keras_gradopt.landscape import Landscape, dot

Tensor = Any
# Sufficient decrease, and how much flatter the slope has to become: Nocedal & Wright, section 3.1.
DECREASE = 1e-4
FLATTER = 0.9


@dataclasses.dataclass(frozen=True)
class Found:
    """Where a search ended.

    Attributes:
        step: Length of the step in units of the direction, 0 where none was found.
        w: The point reached; where it began if nothing was found.
        value: The loss there.
        gradient: The gradient there; None from searches that compute none.
        success: Whether the loss decreased enough.
    """

    step: Tensor
    w: Tensor
    value: Tensor
    gradient: Tensor
    success: Tensor


def strong_wolfe(
    landscape: Landscape,
    w: Tensor,
    value: Tensor,
    gradient: Tensor,
    direction: Tensor,
    first: Tensor,
    evaluations: int = 20,
) -> Found:
    r"""A step that fulfils the strong Wolfe conditions, one gradient per trial.

    $$f(w + td) \le f(w) + c_1 t \langle g, d \rangle, \quad
    |\langle \nabla f(w + td), d \rangle| \le c_2 |\langle g, d \rangle|$$

    with $c_1 = 10^{-4}$ and $c_2 = 0.9$. Near a minimum, where differences of losses drown in
    rounding, a slope between $c_2$ and $2 c_1 - 1$ times the first one stands in for the decrease.

    Args:
        landscape: The loss.
        w: Where to begin.
        value: The loss there.
        gradient: The gradient there.
        direction: A direction of descent.
        first: Length of the first trial.
        evaluations: Trials at most, at least 1.

    References:
        Nocedal, Wright. Numerical Optimization. Springer 2006, algorithms 3.5 and 3.6, with both
        phases in one loop. Hager, Zhang. A New Conjugate Gradient Method with Guaranteed Descent
        and an Efficient Line Search. SIAM J. Optim. 2005, equation (4.1), for the stand-in.
    """
    dtype = w.dtype
    slope = dot(gradient, direction)
    # What rounding makes of a loss: some of its last digits.
    noise = 8 * rounding(value)

    def scalar(x: Any) -> Tensor:
        return ops.cast(ops.convert_to_tensor(x), dtype)

    def enough(t: Tensor, f: Tensor, d: Tensor) -> Tensor:
        exact = f <= value + DECREASE * t * slope
        flatter = (d >= FLATTER * slope) & (d <= (2 * DECREASE - 1) * slope)
        return exact | ((f <= value + noise) & flatter)

    def body(k: Any, done: Any, bracketed: Any, t: Any, low: Any, high: Any, best: Any) -> tuple:
        del done
        point = w + t * direction
        f, g = landscape.value_and_grad(point)
        d = dot(g, direction)
        finite = ops.isfinite(f) & ops.isfinite(d)
        f = ops.where(finite, f, _huge(dtype))
        d = ops.where(finite, d, 0.0)
        here = (t, f, d)
        rises = ~finite | ~enough(t, f, d) | ((f > low[1] + noise) & (low[0] > 0))
        flat = ~rises & (ops.abs(d) <= -FLATTER * slope)
        # The interval (low, high) holds a good step; low is the best end. Before there is one,
        # low moves on and high is where the next trial was.
        turned = ~rises & (d * (high[0] - low[0]) >= 0) & bracketed
        beyond = ~rises & (d >= 0) & ~bracketed
        new_high = _pick(rises, here, _pick(turned | beyond, low, high))
        new_low = _pick(rises, low, here)
        now = bracketed | rises | beyond
        inside = _between(new_low, new_high)
        # Where the slope would vanish if it went on as it did, 2 to 10 times as far.
        bend = (d - low[2]) / ops.where(t > low[0], t - low[0], 1.0)
        outside = ops.where(bend > 0, t - d / ops.where(bend > 0, bend, 1.0), 10.0 * t)
        outside = ops.clip(outside, 2.0 * t, 10.0 * t)
        better = ~rises
        best = tuple(ops.where(better, new, old) for new, old in zip((f, g), best, strict=True))
        following = ops.where(flat, t, ops.where(now, inside, outside))
        # An interval of rounding errors cannot be cut further.
        tiny = now & (ops.abs(new_high[0] - new_low[0]) <= _epsilon(dtype) * new_high[0])
        return k + 1, flat | tiny, now, following, new_low, new_high, best

    def going(k: Any, done: Any, *rest: Any) -> Tensor:
        del rest
        return ops.logical_and(k < evaluations, ops.logical_not(done))

    zero = scalar(0.0)
    start = (zero, scalar(value), slope)
    state = (
        ops.convert_to_tensor(0, "int32"),
        ops.convert_to_tensor(False, "bool"),
        ops.convert_to_tensor(False, "bool"),
        scalar(first),
        start,
        (scalar(first), scalar(value), slope),
        (scalar(value), gradient),
    )
    flat_state, pack = _flattened(state)
    end = pack(
        landscape.loop(
            lambda *flat: going(*pack(flat)),
            lambda *flat: tuple(_flattened(body(*pack(flat)))[0]),
            tuple(flat_state),
        )
    )
    # The low end is the best point that decreases enough, or the start.
    (step, f, _), (_, g) = end[4], end[6]
    return Found(step, w + step * direction, f, g, step > 0)


def backtracking(
    landscape: Landscape,
    w: Tensor,
    value: Tensor,
    direction: Tensor,
    expected: Callable[[Tensor], Tensor],
    first: Any = 1.0,
    evaluations: int = 20,
) -> Found:
    r"""Halves a step until the loss decreases by enough of what is expected; values only.

    $$f(w + td) \le f(w) + c_1 m(t)$$

    Args:
        landscape: The loss.
        w: Where to begin.
        value: The loss there.
        direction: Where to go.
        expected: From $t$ to the change $m(t) < 0$ that a model of the loss expects.
        first: The first $t$.
        evaluations: Trials at most, at least 1.

    References:
        Nocedal, Wright. Numerical Optimization. Springer 2006, algorithm 3.1; with a quadratic
        $m$ it holds for directions of negative curvature as well.
    """
    dtype = w.dtype
    noise = 2 * rounding(value)

    def body(k: Any, done: Any, t: Any, f: Any) -> tuple:
        del done, f
        f = landscape.value(w + t * direction)
        # Rounding may hide a decrease, never make an increase.
        good = (f <= value + DECREASE * expected(t)) | (-expected(t) <= noise)
        good = good & (f < value)
        return k + 1, good, ops.where(good, t, 0.5 * t), f

    def going(k: Any, done: Any, t: Any, f: Any) -> Tensor:
        del t, f
        return ops.logical_and(k < evaluations, ops.logical_not(done))

    state = (
        ops.convert_to_tensor(0, "int32"),
        ops.convert_to_tensor(False, "bool"),
        ops.cast(ops.convert_to_tensor(first), dtype),
        ops.cast(value, dtype),
    )
    _, good, t, f = landscape.loop(going, body, state)
    step = ops.where(good, t, ops.zeros_like(t))
    return Found(step, w + step * direction, ops.where(good, f, value), None, good)


def _between(low: tuple, high: tuple) -> Tensor:
    """The cubic's minimum between two points with slopes, kept a tenth away from both."""
    (a, f_a, d_a), (b, f_b, d_b) = low, high
    width = ops.where(ops.equal(a, b), 1.0, a - b)
    d_1 = d_a + d_b - 3 * (f_a - f_b) / width  # (3.59)
    square = d_1 * d_1 - d_a * d_b
    d_2 = ops.sign(b - a) * ops.sqrt(ops.maximum(square, 0.0))
    below = d_b - d_a + 2 * d_2
    cubic = b - (b - a) * (d_b + d_2 - d_1) / ops.where(ops.equal(below, 0.0), 1.0, below)
    middle = 0.5 * (a + b)
    usable = ops.isfinite(cubic) & (square >= 0) & (f_b < 0.5 * _huge(b.dtype))
    t = ops.where(usable, cubic, middle)
    left, right = ops.minimum(a, b), ops.maximum(a, b)
    edge = 0.1 * (right - left)
    # Far out of range, where the loss is no number, a tenth is nearer than a half.
    t = ops.where(f_b < 0.5 * _huge(b.dtype), t, a + 0.1 * (b - a))
    return ops.clip(t, left + edge, right - edge)


def _pick(condition: Tensor, yes: tuple, no: tuple) -> tuple:
    return tuple(ops.where(condition, a, b) for a, b in zip(yes, no, strict=True))


def _flattened(state: tuple) -> tuple[list[Tensor], Callable[[Any], tuple]]:
    """A tuple of tensors and tuples as a list, and the way back."""
    lengths = [len(part) if isinstance(part, tuple) else 0 for part in state]
    flat = [x for part in state for x in (part if isinstance(part, tuple) else (part,))]

    def pack(values: Any) -> tuple:
        rest = iter(values)
        return tuple(tuple(next(rest) for _ in range(n)) if n else next(rest) for n in lengths)

    return flat, pack


def rounding(value: Tensor) -> Tensor:
    """What rounding alone may make of a loss: its last digit."""
    return _epsilon(value.dtype) * ops.abs(value)


def _epsilon(dtype: Any) -> float:
    return 2.3e-16 if "64" in str(dtype) else 1.2e-7


def _huge(dtype: Any) -> float:
    return 1e300 if "64" in str(dtype) else 1e37
