"""The values of a schedule over a training, in plain Python: for pictures where Keras is absent."""

from __future__ import annotations

import bisect
import functools
import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

# Steps may be met a rounding error early, as in `schedules.cosine_warm_restarts`.
_ROUNDING = 1e-9
MODES = ("triangular", "triangular2", "exp_range")
STRATEGIES = ("cos", "linear")


def curve(
    schedule: Mapping[str, Any] | float, total_steps: int, points: int
) -> list[tuple[int, float]]:
    """Where a schedule goes, at steps that are equally far apart.

    A schedule that follows the loss is drawn as if the loss kept falling.

    Args:
        schedule: What Keras serialises a schedule to, `{"class_name": ..., "config": {...}}`, one
            of keras_gradopt or of Keras; a number stays what it is.
        total_steps: Steps of the training, at least 1.
        points: Most points, at least 2.

    Returns:
        Step, from 0 to `total_steps - 1`, and value; infinite where it is too large for a float.

    Raises:
        ValueError: The schedule is not known, or its arguments do not fit.
    """
    last = total_steps - 1
    count = min(points, total_steps)
    steps = [0] if count == 1 else [round(last * n / (count - 1)) for n in range(count)]
    value = _value(schedule)
    return [(step, _bounded(value, step)) for step in steps]


def _bounded(value: Callable[[float], float], step: int) -> float:
    try:
        return value(step)
    except OverflowError:
        return math.inf
    except ZeroDivisionError:
        raise ValueError(
            "A part of 0 steps cannot be drawn: give every length 1 or more."
        ) from None


def _value(schedule: Any) -> Callable[[float], float]:
    """The value of a schedule or a number as a function of the step."""
    if isinstance(schedule, int | float):
        return functools.partial(constant, value=float(schedule))
    name = schedule.get("class_name") if isinstance(schedule, Mapping) else schedule
    if name not in FUNCTIONS:
        raise ValueError(f"schedule must be one of {', '.join(FUNCTIONS)}, received {name!r}.")
    function = FUNCTIONS[name]
    arguments = {key: value for key, value in schedule["config"].items() if key != "name"}
    try:
        inspect.signature(function).bind(0.0, **arguments)
    except TypeError as error:
        raise ValueError(f"{name}: {error}.") from None
    return functools.partial(function, **arguments)


def constant(_: float, *, value: float) -> float:
    """The same at every step."""
    return value


def cosine_decay(
    t: float,
    *,
    initial_learning_rate: float,
    decay_steps: int,
    alpha: float = 0.0,
    warmup_target: float | None = None,
    warmup_steps: int = 0,
) -> float:
    """Half a cosine, in Keras' class behind a rise."""
    start = initial_learning_rate
    if warmup_target is not None:
        if t <= warmup_steps and warmup_steps:
            return start + (warmup_target - start) * t / warmup_steps
        start, t = warmup_target, t - warmup_steps
    return start * (alpha + (1 - alpha) * _cosine(t / decay_steps))


def cosine_warm_restarts(
    t: float,
    *,
    initial_learning_rate: float,
    first_decay_steps: int,
    t_mul: float = 2.0,
    m_mul: float = 1.0,
    alpha: float = 0.0,
) -> float:
    """Half cosines one after another."""
    place, growth = t / first_decay_steps, t_mul - 1
    if growth == 0:
        cycle, done = math.floor(place), place % 1
    else:
        cycle = math.floor(math.log1p(growth * place) / math.log(t_mul) + _ROUNDING)
        factor = t_mul**cycle
        done = (place - (factor - 1) / growth) / factor
    return initial_learning_rate * (alpha + (1 - alpha) * m_mul**cycle * _cosine(done))


def cyclic(
    t: float,
    *,
    base: float,
    peak: float,
    step_size: int = 2000,
    mode: str = "triangular",
    gamma: float = 1.0,
) -> float:
    """Straight up and straight down, over and over."""
    if mode not in MODES:
        raise ValueError(f"mode must be one of {', '.join(MODES)}, received {mode!r}.")
    triangle = 1 - abs(t % (2 * step_size) / step_size - 1)
    height = {"triangular": 1.0, "triangular2": 0.5 ** (t // (2 * step_size))}.get(mode, gamma**t)
    return base + (peak - base) * triangle * height


def exponential_decay(
    t: float,
    *,
    initial_learning_rate: float,
    decay_steps: int,
    decay_rate: float,
    staircase: bool = False,
) -> float:
    """The same factor in equal times."""
    return initial_learning_rate * float(decay_rate) ** _times(t, decay_steps, staircase)


def inverse_sqrt(t: float, *, initial_learning_rate: float, decay_steps: int) -> float:
    """One over the root of the time."""
    return initial_learning_rate / math.sqrt(1 + t / decay_steps)


def inverse_time_decay(
    t: float,
    *,
    initial_learning_rate: float,
    decay_steps: int,
    decay_rate: float,
    staircase: bool = False,
) -> float:
    """One over the time."""
    return initial_learning_rate / (1 + decay_rate * _times(t, decay_steps, staircase))


def linear_to_zero(t: float, *, initial: float, total_steps: int) -> float:
    """A straight line to 0."""
    return initial * max(1 - t / total_steps, 0.0)


def one_cycle(
    t: float,
    *,
    peak: float,
    total_steps: int,
    pct_start: float = 0.3,
    anneal_strategy: str = "cos",
    div_factor: float = 25.0,
    final_div_factor: float = 1e4,
    three_phase: bool = False,
) -> float:
    """Up to the peak, and down to far below the start."""
    if anneal_strategy not in STRATEGIES:
        raise ValueError(
            f"anneal_strategy must be one of {', '.join(STRATEGIES)}, received {anneal_strategy!r}."
        )
    if pct_start * total_steps <= 1:
        raise ValueError(f"total_steps must be above 1 / pct_start = {1 / pct_start:g}.")
    top, end, start = pct_start * total_steps - 1, total_steps - 1, peak / div_factor
    bottom = start / final_div_factor
    phases = [(0.0, top, start, peak), (top, end, peak, bottom)]
    if three_phase:
        phases[1:] = [(top, 2 * top, peak, start), (2 * top, end, start, bottom)]
    began, until, first, last = next(phase for phase in reversed(phases) if t >= phase[0])
    done = _clipped((t - began) / (until - began))
    return last + (first - last) * (_cosine(done) if anneal_strategy == "cos" else 1 - done)


def piecewise_constant(t: float, *, boundaries: Sequence[int], values: Sequence[float]) -> float:
    """Constant between steps that are given."""
    _check_parts(boundaries, values)
    return values[bisect.bisect_left(boundaries, t)]


def polynomial_decay(
    t: float,
    *,
    initial_learning_rate: float,
    decay_steps: int,
    end_learning_rate: float = 0.0001,
    power: float = 1.0,
    cycle: bool = False,
) -> float:
    """A power of the time that is left."""
    done = t / decay_steps
    if cycle:
        done /= max(math.ceil(done), 1)
    left = (1 - _clipped(done)) ** power
    return end_learning_rate + (initial_learning_rate - end_learning_rate) * left


def reduce_on_plateau(t: float, *, schedule: Any, **_: Any) -> float:
    """What is reduced when the loss has stopped falling; here it goes on falling."""
    return _value(schedule)(t)


def sequential(t: float, *, schedules: Sequence[Any], boundaries: Sequence[int]) -> float:
    """One schedule after another, each from its own step 0."""
    _check_parts(boundaries, schedules)
    number = bisect.bisect_right(boundaries, t)
    return _value(schedules[number])(t - boundaries[number - 1] if number else t)


def step_decay(
    t: float, *, initial_learning_rate: float, decay_steps: int, decay_rate: float = 0.1
) -> float:
    """A factor every so many steps."""
    return initial_learning_rate * float(decay_rate) ** (t // decay_steps)


def warmup(t: float, *, schedule: Any, warmup_steps: int, initial: float = 0.0) -> float:
    """A straight rise in front of another schedule."""
    follows = _value(schedule)
    if t >= warmup_steps:
        return follows(t - warmup_steps)
    return initial + (follows(0) - initial) * t / warmup_steps


def warmup_stable_decay(
    t: float,
    *,
    peak: float,
    warmup_steps: int,
    stable_steps: int,
    decay_steps: int,
    final: float = 0.0,
) -> float:
    """A rise, a constant stretch, a cooldown."""
    rise = _clipped(t / warmup_steps) if warmup_steps else 1.0
    return peak * rise + (final - peak) * _clipped((t - warmup_steps - stable_steps) / decay_steps)


def _check_parts(boundaries: Sequence[int], parts: Sequence[Any]) -> None:
    if len(parts) != len(boundaries) + 1 or list(boundaries) != sorted(set(boundaries)):
        raise ValueError(
            "boundaries must rise and be one fewer than the parts between them, received "
            f"{len(boundaries)} boundaries and {len(parts)} parts."
        )


def _clipped(part: float) -> float:
    return min(max(part, 0.0), 1.0)


def _cosine(done: float) -> float:
    return 0.5 * (1 + math.cos(math.pi * _clipped(done)))


def _times(t: float, decay_steps: int, staircase: bool) -> float:
    return float(t // decay_steps) if staircase else t / decay_steps


# By the names of the classes of keras_gradopt, then by those that only Keras has.
FUNCTIONS: dict[str, Callable[..., float]] = {
    "Constant": constant,
    "CosineDecay": cosine_decay,
    "CosineWarmRestarts": cosine_warm_restarts,
    "Cyclic": cyclic,
    "ExponentialDecay": exponential_decay,
    "InverseSqrt": inverse_sqrt,
    "InverseTimeDecay": inverse_time_decay,
    "LinearToZero": linear_to_zero,
    "OneCycle": one_cycle,
    "PiecewiseConstant": piecewise_constant,
    "PolynomialDecay": polynomial_decay,
    "ReduceOnPlateau": reduce_on_plateau,
    "Sequential": sequential,
    "StepDecay": step_decay,
    "Warmup": warmup,
    "WarmupStableDecay": warmup_stable_decay,
    "CosineDecayRestarts": cosine_warm_restarts,
    "PiecewiseConstantDecay": piecewise_constant,
}
