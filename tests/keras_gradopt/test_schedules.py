"""Schedules against optax, torch, Keras and closed forms."""

from __future__ import annotations

import doctest
import math
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import optax
import pytest
import torch
from keras import ops

import keras_gradopt as kg
from keras_gradopt import registry, schedules
from tests.keras_gradopt.problems import assert_close, train

# Those that follow the loss are no function of the step alone: see test_plateau.py.
SCHEDULES = {
    name: cls
    for name, cls in registry.members("keras_gradopt.schedules").items()
    if not issubclass(cls, schedules.ObservesLoss)
}
KERAS = keras.optimizers.schedules
TORCH = torch.optim.lr_scheduler
STEPS = 16
# Float32 rounds each of a schedule's few operations to 6e-8 of itself.
TOLERANCE = {"rtol": 2e-6, "atol": 1e-7}


def torch_values(
    scheduler: Callable[..., Any],
    *arguments: Any,
    key: str = "lr",
    steps: int = STEPS,
    **named: Any,
) -> list[float]:
    """What a torch scheduler gives one of SGD's arguments at each step, from a rate of 0.3."""
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.3, momentum=0.9)
    schedule = scheduler(optimizer, *arguments, **named)
    seen = []
    for _ in range(steps):
        seen.append(float(optimizer.param_groups[0][key]))
        optimizer.step()
        schedule.step()
    return seen


def by_torch(*arguments: Any, **named: Any) -> Callable[[int], float]:
    """The value of a torch scheduler at a step; arguments as for `torch_values`."""
    return torch_values(*arguments, **named).__getitem__


def by_keras(schedule: Any) -> Callable[[int], float]:
    """The value of a Keras schedule at a step, all steps at once: one by one JAX takes seconds."""
    return ops.convert_to_numpy(schedule(ops.arange(STEPS))).__getitem__


def one_cycle(**named: Any) -> Callable[[int], float]:
    """OneCycleLR of torch, 12 steps with a peak of 0.3; beyond the end, where it raises, held."""
    values = torch_values(TORCH.OneCycleLR, 0.3, steps=12, total_steps=12, **named)
    return lambda t: values[min(t, 11)]


EXAMPLES = {
    "Constant": lambda: schedules.Constant(0.3),
    "CosineDecay": lambda: schedules.CosineDecay(0.3, 10, alpha=0.1),
    "CosineWarmRestarts": lambda: schedules.CosineWarmRestarts(0.3, 3, m_mul=0.5, alpha=0.1),
    "Cyclic": lambda: schedules.Cyclic(0.05, 0.3, 3),
    "ExponentialDecay": lambda: schedules.ExponentialDecay(0.3, 4, 0.2),
    "InverseSqrt": lambda: schedules.InverseSqrt(0.3, 4),
    "InverseTimeDecay": lambda: schedules.InverseTimeDecay(0.3, 4, 0.8),
    "LinearToZero": lambda: schedules.LinearToZero(0.3, 10),
    "OneCycle": lambda: schedules.OneCycle(0.3, 12),
    "PiecewiseConstant": lambda: schedules.PiecewiseConstant([0, 4, 9], [0.1, 0.3, 0.2, 0.05]),
    "PolynomialDecay": lambda: schedules.PolynomialDecay(0.3, 10, 0.05, power=0.9),
    "Sequential": lambda: schedules.Sequential([0.1, schedules.CosineDecay(0.3, 6)], [4]),
    "StepDecay": lambda: schedules.StepDecay(0.3, 4, 0.3),
    "Warmup": lambda: schedules.Warmup(schedules.CosineDecay(0.3, 6), 4, initial=0.05),
    "WarmupStableDecay": lambda: schedules.WarmupStableDecay(0.3, 3, 4, 5, final=0.05),
}
PEERS: dict[str, Callable[[int], Any]] = {
    "Constant": optax.constant_schedule(0.3),
    "CosineDecay": optax.cosine_decay_schedule(0.3, 10, alpha=0.1),
    "CosineWarmRestarts": by_keras(KERAS.CosineDecayRestarts(0.3, 3, m_mul=0.5, alpha=0.1)),
    "Cyclic": by_torch(TORCH.CyclicLR, 0.05, 0.3, 3, cycle_momentum=False),
    "ExponentialDecay": optax.exponential_decay(0.3, 4, 0.2),
    "InverseSqrt": lambda t: 0.3 / math.sqrt(1 + t / 4),  # no library has it without its warmup
    "InverseTimeDecay": by_keras(KERAS.InverseTimeDecay(0.3, 4, 0.8)),
    "LinearToZero": optax.linear_schedule(0.3, 0.0, 10),
    "OneCycle": one_cycle(),
    "PiecewiseConstant": KERAS.PiecewiseConstantDecay([0, 4, 9], [0.1, 0.3, 0.2, 0.05]),
    "PolynomialDecay": optax.polynomial_schedule(0.3, 0.05, 0.9, 10),
    "Sequential": optax.join_schedules(
        [optax.constant_schedule(0.1), optax.cosine_decay_schedule(0.3, 6)], [4]
    ),
    "StepDecay": by_torch(TORCH.StepLR, 4, gamma=0.3),
    "Warmup": optax.join_schedules(
        [optax.linear_schedule(0.05, 0.3, 4), optax.cosine_decay_schedule(0.3, 6)], [4]
    ),
    "WarmupStableDecay": optax.join_schedules(
        [
            optax.linear_schedule(0.0, 0.3, 3),
            optax.constant_schedule(0.3),
            optax.linear_schedule(0.3, 0.05, 5),
        ],
        [3, 7],
    ),
}
# Further arguments and peers: (ours, theirs).
VARIANTS: dict[str, tuple[Callable[[], Any], Callable[[int], Any]]] = {
    "CosineWarmRestarts of one length | torch": (
        lambda: schedules.CosineWarmRestarts(0.3, 5, t_mul=1.0, alpha=0.1),
        by_torch(TORCH.CosineAnnealingWarmRestarts, 5, eta_min=0.03),
    ),
    "CosineWarmRestarts growing | torch": (
        lambda: schedules.CosineWarmRestarts(0.3, 2, t_mul=3.0),
        by_torch(TORCH.CosineAnnealingWarmRestarts, 2, T_mult=3),
    ),
    "CosineWarmRestarts of broken lengths | keras": (
        lambda: schedules.CosineWarmRestarts(0.3, 3, t_mul=1.5),
        by_keras(KERAS.CosineDecayRestarts(0.3, 3, t_mul=1.5)),
    ),
    "Cyclic triangular2 | torch": (
        lambda: schedules.Cyclic(0.05, 0.3, 2, mode="triangular2"),
        by_torch(TORCH.CyclicLR, 0.05, 0.3, 2, mode="triangular2", cycle_momentum=False),
    ),
    "Cyclic exp_range | torch": (
        lambda: schedules.Cyclic(0.05, 0.3, 2, mode="exp_range", gamma=0.9),
        by_torch(TORCH.CyclicLR, 0.05, 0.3, 2, mode="exp_range", gamma=0.9, cycle_momentum=False),
    ),
    "Cyclic downwards | torch's momentum": (
        lambda: schedules.Cyclic(0.95, 0.85, 3),
        by_torch(
            TORCH.CyclicLR, 0.1, 1.0, 3, base_momentum=0.85, max_momentum=0.95, key="momentum"
        ),
    ),
    "ExponentialDecay in stairs | keras": (
        lambda: schedules.ExponentialDecay(0.3, 4, 0.2, staircase=True),
        by_keras(KERAS.ExponentialDecay(0.3, 4, 0.2, staircase=True)),
    ),
    "ExponentialDecay rising | torch": (
        lambda: schedules.ExponentialDecay(0.3, 1, 1.1),
        by_torch(TORCH.ExponentialLR, 1.1),
    ),
    "InverseSqrt in Warmup | Vaswani's equation (3)": (
        lambda: schedules.Warmup(schedules.InverseSqrt(1 / math.sqrt(64 * 5), 5), 5),
        lambda t: 64**-0.5 * min(t**-0.5, t * 5**-1.5) if t else 0.0,
    ),
    "InverseTimeDecay in stairs | keras": (
        lambda: schedules.InverseTimeDecay(0.3, 4, 0.8, staircase=True),
        by_keras(KERAS.InverseTimeDecay(0.3, 4, 0.8, staircase=True)),
    ),
    "OneCycle straight | torch": (
        lambda: schedules.OneCycle(0.3, 12, pct_start=0.4, anneal_strategy="linear"),
        one_cycle(pct_start=0.4, anneal_strategy="linear"),
    ),
    "OneCycle in three phases | torch": (
        lambda: schedules.OneCycle(
            0.3, 12, 0.35, div_factor=4.0, final_div_factor=10.0, three_phase=True
        ),
        one_cycle(pct_start=0.35, div_factor=4.0, final_div_factor=10.0, three_phase=True),
    ),
    "OneCycle's momentum | torch": (
        lambda: schedules.OneCycle(0.3, 12).momentum(),
        one_cycle(key="momentum"),
    ),
    "OneCycle's momentum, straight | torch": (
        lambda: schedules.OneCycle(0.3, 12, 0.5, "linear", 10.0, 3.0).momentum(0.5, 0.9),
        one_cycle(
            key="momentum",
            pct_start=0.5,
            anneal_strategy="linear",
            base_momentum=0.5,
            max_momentum=0.9,
        ),
    ),
    "OneCycle's momentum in three phases | torch": (
        lambda: schedules.OneCycle(0.3, 12, 0.35, three_phase=True).momentum(),
        one_cycle(key="momentum", pct_start=0.35, three_phase=True),
    ),
    # optax and torch change at the boundary, Keras one step later.
    "PiecewiseConstant one step earlier | torch": (
        lambda: schedules.PiecewiseConstant([3, 8], [0.3, 0.06, 0.012]),
        by_torch(TORCH.MultiStepLR, [4, 9], gamma=0.2),
    ),
    "PolynomialDecay | keras": (
        lambda: schedules.PolynomialDecay(0.3, 10),
        by_keras(KERAS.PolynomialDecay(0.3, 10)),
    ),
    "PolynomialDecay in cycles | keras": (
        lambda: schedules.PolynomialDecay(0.3, 4, 0.05, power=0.5, cycle=True),
        by_keras(KERAS.PolynomialDecay(0.3, 4, 0.05, power=0.5, cycle=True)),
    ),
    "StepDecay | keras": (
        lambda: schedules.StepDecay(0.3, 3),
        by_keras(KERAS.ExponentialDecay(0.3, 3, 0.1, staircase=True)),
    ),
}
every_schedule = pytest.mark.parametrize("name", sorted(SCHEDULES))


@every_schedule
def test_it_equals_its_peer_at_every_step_and_beyond_the_end(name: str) -> None:
    ours = [float(EXAMPLES[name]()(t)) for t in range(STEPS)]
    theirs = [float(PEERS[name](t)) for t in range(STEPS)]
    np.testing.assert_allclose(ours, theirs, **TOLERANCE)


@pytest.mark.parametrize("name", sorted(VARIANTS))
def test_its_other_forms_equal_their_peers(name: str) -> None:
    ours, theirs = VARIANTS[name]
    schedule = ours()
    np.testing.assert_allclose(
        [float(schedule(t)) for t in range(STEPS)],
        [float(theirs(t)) for t in range(STEPS)],
        **TOLERANCE,
    )


@pytest.mark.parametrize("t_mul", [1.0, 1.1, 1.5, 2.0, 3.0])
@pytest.mark.parametrize("first", [1, 7, 10, 100])
def test_no_restart_comes_late(first: int, t_mul: float) -> None:
    """Against the cycles added up in double precision; Keras misses some (first 10, t_mul 1.1)."""
    began, length, expected = 0.0, float(first), []
    for t in range(2000):
        if t - began > length * (1 - 1e-9):
            began, length = began + length, length * t_mul
        expected.append(0.5 * (1 + math.cos(math.pi * max(0.0, t - began) / length)))
    ours = schedules.CosineWarmRestarts(1.0, first, t_mul=t_mul)(ops.arange(2000))
    # A tenth of growth costs a digit of where a cycle began; a late restart would be off by 1.
    np.testing.assert_allclose(ops.convert_to_numpy(ours), expected, atol=1e-5)


def test_decay_rates_near_one_keep_their_digits_in_long_runs() -> None:
    t = np.array([0, 10, 100_000, 1_000_000])
    ours = schedules.ExponentialDecay(0.3, 1, 0.99999)(ops.convert_to_tensor(t))
    # Float32's own rounding of the exponent -10 is 5e-7.
    np.testing.assert_allclose(ops.convert_to_numpy(ours), 0.3 * 0.99999**t, rtol=1e-6)


@every_schedule
def test_it_never_asks_for_the_value_of_a_traced_step(name: str) -> None:
    """A symbolic step has a shape only: a branch on its value would raise."""
    value = EXAMPLES[name]()(keras.KerasTensor((3, 2), "int32"))
    assert (value.shape, value.dtype) == ((3, 2), "float32")


@every_schedule
def test_it_takes_a_whole_range_of_steps_at_once(name: str) -> None:
    schedule = EXAMPLES[name]()
    together = ops.convert_to_numpy(schedule(ops.arange(16)))
    np.testing.assert_allclose(together, [float(schedule(t)) for t in range(16)], rtol=1e-6)


@every_schedule
def test_it_is_saved_and_made_again(name: str) -> None:
    schedule = EXAMPLES[name]()
    again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(schedule))
    assert type(again) is SCHEDULES[name]
    assert again.get_config() == schedule.get_config()
    assert [float(again(t)) for t in range(9)] == [float(schedule(t)) for t in range(9)]


@every_schedule
def test_keras_own_optimizers_take_it(name: str) -> None:
    ours = train(kg.SGD(EXAMPLES[name]()), 8)
    theirs = train(keras.optimizers.SGD(EXAMPLES[name]()), 8)
    assert_close(ours, theirs, 1e-6)


def test_momentum_can_rise_along_a_schedule() -> None:
    """Against heavy-ball written out with the schedule's closed form."""
    rise = schedules.Warmup(0.9, 4, initial=0.5)
    w = keras.Variable(np.array([1.0, -2.0], "float32"))
    optimizer = kg.SGD(0.1, momentum=rise)
    expected, velocity = np.array([1.0, -2.0]), np.zeros(2)
    for t in range(8):
        optimizer.apply([2 * w.value], [w])
        velocity = (0.5 + 0.4 * min(t, 4) / 4) * velocity - 0.1 * 2 * expected
        expected = expected + velocity
    np.testing.assert_allclose(ops.convert_to_numpy(w.value), expected, rtol=1e-5)


def test_one_cycle_drives_rate_and_momentum_together() -> None:
    """Against heavy-ball written out with the rates and momenta of torch's OneCycleLR."""
    rate = schedules.OneCycle(0.3, 12, pct_start=0.4)
    w = keras.Variable(np.array([1.0, -2.0], "float32"))
    optimizer = kg.SGD(rate, momentum=rate.momentum())
    rates = one_cycle(pct_start=0.4)
    momenta = one_cycle(key="momentum", pct_start=0.4)
    expected, velocity = np.array([1.0, -2.0]), np.zeros(2)
    for t in range(14):
        optimizer.apply([2 * w.value], [w])
        velocity = momenta(t) * velocity - rates(t) * 2 * expected
        expected = expected + velocity
    # 14 steps in float32, next to weights of order 1.
    np.testing.assert_allclose(ops.convert_to_numpy(w.value), expected, atol=1e-6)


def test_clipping_can_tighten_along_a_schedule() -> None:
    w = keras.Variable(np.zeros(1, "float32"))
    clip = kg.transforms.ClipByGlobalNorm(schedules.Sequential([1.0, 0.25], [2]))
    optimizer = kg.SGD(1.0, gradient_transforms=[clip])
    path = []
    for _ in range(4):
        optimizer.apply([ops.full((1,), -8.0)], [w])
        path.append(float(ops.convert_to_numpy(w.value)[0]))
    assert path == [1.0, 2.0, 2.25, 2.5]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        # Goyal 2017: 0.1 per 256 examples, trained at 8192. Krizhevsky 2014: by the root of k = 4.
        ((0.1, 8192, 256), 3.2),
        ((0.01, 512, 128, "sqrt"), 0.02),
        ((0.1, 64, 256), 0.025),
        ((0.1, 64, 256, "sqrt"), 0.05),
        ((0.1, 256, 256, "sqrt"), 0.1),
    ],
)
def test_rates_follow_the_batch_size(arguments: tuple, expected: float) -> None:
    assert kg.schedules.large_batch_scale(*arguments) == pytest.approx(expected, rel=1e-12)


def test_the_example_of_large_batch_scale_is_true() -> None:
    function = schedules.large_batch_scale
    (example,) = doctest.DocTestFinder().find(function, globs={function.__name__: function})
    assert tuple(doctest.DocTestRunner().run(example)) == (0, 2)


@pytest.mark.parametrize(("clock", "expected"), [("step", [0, 1, 2]), ("micro_step", [1, 3, 5])])
def test_schedules_advance_on_real_steps_or_on_minibatches(clock: str, expected: list) -> None:
    w = keras.Variable(np.zeros(1, "float32"))
    line = schedules.Sequential([schedules.LinearToZero(100.0, 100), 0.0], [100])
    optimizer = kg.SGD(line, gradient_accumulation_steps=2, schedule_clock=clock)
    moves, before = [], 0.0
    for _ in range(6):
        optimizer.apply([ops.ones((1,))], [w])
        now = float(ops.convert_to_numpy(w.value)[0])
        if now != before:
            moves.append(round(100 + (now - before)))
        before = now
    assert moves == expected


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: schedules.CosineDecay(-1.0, 10), r"initial_learning_rate must be in \[0, inf\)"),
        (lambda: schedules.CosineDecay(1.0, 0), "decay_steps must be a whole number >= 1"),
        (lambda: schedules.CosineDecay(1.0, 10, alpha=2.0), r"alpha must be in \[0, 1\]"),
        (lambda: schedules.LinearToZero(1.0, 2.5), "total_steps must be a whole number"),
        (lambda: schedules.Sequential([1.0, 2.0], []), "one fewer than schedules"),
        (lambda: schedules.Sequential([1.0, 2.0, 3.0], [5, 5]), "boundaries must rise"),
        (lambda: schedules.Sequential([1.0, "x"], [5]), "received 'x'"),
        (lambda: schedules.Warmup("x", 5), "schedule must be a number"),
        (lambda: schedules.WarmupStableDecay(1.0, -1, 2, 3), "warmup_steps"),
        (
            lambda: schedules.CosineDecay(schedules.LinearToZero(1.0, 5), 10),
            "initial_learning_rate must be a number",
        ),
        (lambda: schedules.Constant(-1.0), r"value must be in \[0, inf\)"),
        (lambda: schedules.StepDecay(1.0, 0), "decay_steps must be a whole number >= 1"),
        (lambda: schedules.StepDecay(1.0, 5, 1.5), r"decay_rate must be in \(0, 1\]"),
        (lambda: schedules.PiecewiseConstant([5], [1.0]), "one fewer than values"),
        (lambda: schedules.PiecewiseConstant([5, 5], [3, 2, 1]), "boundaries must rise"),
        (lambda: schedules.PiecewiseConstant([-1], [2, 1]), "boundaries must be a whole number"),
        (lambda: schedules.PiecewiseConstant([5], [1.0, "x"]), "values must be numbers.*'x'"),
        (lambda: schedules.PiecewiseConstant([5], [1.0, -2.0]), r"values must be in \[0, inf\)"),
        (lambda: schedules.ExponentialDecay(1.0, 5, 0.0), r"decay_rate must be in \(0, inf\)"),
        (lambda: schedules.ExponentialDecay(1.0, 0.5, 0.9), "decay_steps must be a whole number"),
        (lambda: schedules.InverseTimeDecay(1.0, 5, -1.0), r"decay_rate must be in \[0, inf\)"),
        (lambda: schedules.InverseTimeDecay(1.0, -5, 1.0), "decay_steps must be a whole number"),
        (lambda: schedules.PolynomialDecay(1.0, 5, -1.0), r"end_learning_rate must be in \[0"),
        (lambda: schedules.PolynomialDecay(1.0, 5, power=0.0), r"power must be in \(0, inf\)"),
        (lambda: schedules.CosineWarmRestarts(1.0, 0), "first_decay_steps must be a whole"),
        (lambda: schedules.CosineWarmRestarts(1.0, 5, 0.5), r"t_mul must be in \[1, inf\)"),
        (lambda: schedules.CosineWarmRestarts(1.0, 5, m_mul=0.0), r"m_mul must be in \(0, inf\)"),
        (lambda: schedules.CosineWarmRestarts(1.0, 5, alpha=2.0), r"alpha must be in \[0, 1\]"),
        (lambda: schedules.InverseSqrt(1.0, 0), "decay_steps must be a whole number"),
        (lambda: schedules.OneCycle(-1.0, 10), r"peak must be in \[0, inf\)"),
        (lambda: schedules.OneCycle(1.0, 10, 1.0), r"pct_start must be in \(0, 1\)"),
        (lambda: schedules.OneCycle(1.0, 3), r"total_steps must be above .* received 3"),
        (lambda: schedules.OneCycle(1.0, 9, 0.6, three_phase=True), "pct_start must be at most"),
        (lambda: schedules.OneCycle(1.0, 9, 0.3, "cosine"), "anneal_strategy must be .*'cosine'"),
        (lambda: schedules.OneCycle(1.0, 9, div_factor=0), r"div_factor must be in \(0, inf\)"),
        (lambda: schedules.OneCycle(1.0, 9, final_div_factor=0), "final_div_factor must be in"),
        (lambda: schedules.OneCycle(1.0, 9).momentum(0.0), r"base_momentum must be in \(0, 1\)"),
        (lambda: schedules.OneCycle(1.0, 9).momentum(0.5, 1.0), r"max_momentum must be in \[0, 1"),
        (lambda: schedules.OneCycle(1.0, 9).momentum(0.9, 0.5), "at least base_momentum"),
        (lambda: schedules.Cyclic(0.1, -1.0), r"peak must be in \[0, inf\)"),
        (lambda: schedules.Cyclic(0.1, 1.0, 0), "step_size must be a whole number >= 1"),
        (lambda: schedules.Cyclic(0.1, 1.0, 5, "saw"), "mode must be one of triangular, .*'saw'"),
        (lambda: schedules.Cyclic(0.1, 1.0, 5, gamma=1.5), r"gamma must be in \(0, 1\]"),
        (lambda: schedules.large_batch_scale("x", 8, 4), "learning_rate must be a number"),
        (lambda: schedules.large_batch_scale(-1.0, 8, 4), r"learning_rate must be in \[0, inf\)"),
        (lambda: schedules.large_batch_scale(0.1, 0, 4), "batch_size must be a whole number"),
        (lambda: schedules.large_batch_scale(0.1, 8, 2.5), "base_batch_size must be a whole"),
        (lambda: schedules.large_batch_scale(0.1, 8, 4, "cubic"), "rule must be .*'cubic'"),
    ],
)
def test_bad_arguments_are_named(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()
