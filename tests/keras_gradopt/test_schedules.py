"""Schedules against optax, Keras and closed forms."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import optax
import pytest
from keras import ops

import keras_gradopt as kg
from keras_gradopt import registry, schedules
from tests.keras_gradopt.problems import assert_close, train

SCHEDULES = registry.members("keras_gradopt.schedules")
EXAMPLES = {
    "CosineDecay": lambda: schedules.CosineDecay(0.3, 10, alpha=0.1),
    "LinearToZero": lambda: schedules.LinearToZero(0.3, 10),
    "Sequential": lambda: schedules.Sequential([0.1, schedules.CosineDecay(0.3, 6)], [4]),
    "Warmup": lambda: schedules.Warmup(schedules.CosineDecay(0.3, 6), 4, initial=0.05),
    "WarmupStableDecay": lambda: schedules.WarmupStableDecay(0.3, 3, 4, 5, final=0.05),
}
PEERS = {
    "CosineDecay": optax.cosine_decay_schedule(0.3, 10, alpha=0.1),
    "LinearToZero": optax.linear_schedule(0.3, 0.0, 10),
    "Sequential": optax.join_schedules(
        [optax.constant_schedule(0.1), optax.cosine_decay_schedule(0.3, 6)], [4]
    ),
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
every_schedule = pytest.mark.parametrize("name", sorted(SCHEDULES))


@every_schedule
def test_it_equals_optax_at_every_step_and_beyond_the_end(name: str) -> None:
    ours = [float(EXAMPLES[name]()(t)) for t in range(16)]
    theirs = [float(PEERS[name](t)) for t in range(16)]
    np.testing.assert_allclose(ours, theirs, rtol=2e-6, atol=1e-7)


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


def test_clipping_can_tighten_along_a_schedule() -> None:
    w = keras.Variable(np.zeros(1, "float32"))
    clip = kg.transforms.ClipByGlobalNorm(schedules.Sequential([1.0, 0.25], [2]))
    optimizer = kg.SGD(1.0, gradient_transforms=[clip])
    path = []
    for _ in range(4):
        optimizer.apply([ops.full((1,), -8.0)], [w])
        path.append(float(ops.convert_to_numpy(w.value)[0]))
    assert path == [1.0, 2.0, 2.25, 2.5]


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
    ],
)
def test_bad_arguments_are_named(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()
