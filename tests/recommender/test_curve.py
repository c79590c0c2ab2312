"""The plain values of schedules, against the classes themselves."""

from __future__ import annotations

import inspect
import math
from typing import Any

import keras
import numpy as np
import pytest

import keras_gradopt
from keras_gradopt import schedules
from recommender.curve import FUNCTIONS, curve
from recommender.knowledge import published

OURS: dict[str, list[dict[str, Any]]] = {
    "Constant": [{"value": 0.3}],
    "CosineDecay": [{"initial_learning_rate": 0.5, "decay_steps": 70, "alpha": 0.1}],
    "CosineWarmRestarts": [
        {"initial_learning_rate": 0.5, "first_decay_steps": 7, "m_mul": 0.7, "alpha": 0.1},
        {"initial_learning_rate": 0.5, "first_decay_steps": 10, "t_mul": 1.0, "m_mul": 0.5},
        {"initial_learning_rate": 0.5, "first_decay_steps": 10, "t_mul": 1.5},
    ],
    "Cyclic": [
        {"base": 0.1, "peak": 0.9, "step_size": 9},
        {"base": 0.1, "peak": 0.9, "step_size": 9, "mode": "triangular2"},
        {"base": 0.1, "peak": 0.9, "step_size": 9, "mode": "exp_range", "gamma": 0.97},
    ],
    "ExponentialDecay": [
        {"initial_learning_rate": 0.5, "decay_steps": 20, "decay_rate": 0.5},
        {"initial_learning_rate": 0.5, "decay_steps": 20, "decay_rate": 0.5, "staircase": True},
    ],
    "InverseSqrt": [{"initial_learning_rate": 0.5, "decay_steps": 11}],
    "InverseTimeDecay": [
        {"initial_learning_rate": 0.5, "decay_steps": 20, "decay_rate": 0.7},
        {"initial_learning_rate": 0.5, "decay_steps": 20, "decay_rate": 0.7, "staircase": True},
    ],
    "LinearToZero": [{"initial": 0.5, "total_steps": 60}],
    "OneCycle": [
        {"peak": 1.0, "total_steps": 90},
        {"peak": 1.0, "total_steps": 90, "anneal_strategy": "linear", "pct_start": 0.2},
        {"peak": 1.0, "total_steps": 90, "three_phase": True},
    ],
    "PiecewiseConstant": [{"boundaries": [10, 40], "values": [1.0, 0.5, 0.1]}],
    "PolynomialDecay": [
        {"initial_learning_rate": 0.5, "decay_steps": 60, "power": 2.5},
        {"initial_learning_rate": 0.5, "decay_steps": 30, "cycle": True},
    ],
    "Sequential": [
        {"schedules": [1.0, schedules.LinearToZero(1.0, 20)], "boundaries": [30]},
        {"schedules": [schedules.Warmup(schedules.Constant(0.5), 5), 0.2, 0.1],
         "boundaries": [30, 31]},
    ],
    "StepDecay": [{"initial_learning_rate": 1.0, "decay_steps": 25, "decay_rate": 0.3}],
    "Warmup": [
        {"schedule": 0.4, "warmup_steps": 15},
        {"schedule": schedules.CosineDecay(0.4, 50), "warmup_steps": 15, "initial": 0.1},
    ],
    "WarmupStableDecay": [
        {"peak": 0.5, "warmup_steps": 10, "stable_steps": 30, "decay_steps": 50, "final": 0.1},
        {"peak": 0.5, "warmup_steps": 0, "stable_steps": 0, "decay_steps": 50},
    ],
}  # fmt: skip
# What follows the loss has no value of its own; it has a test of its own.
FOLLOWS = {"ReduceOnPlateau"}
THEIRS: list[Any] = [
    keras.optimizers.schedules.CosineDecay(0.1, 50, 0.2, warmup_target=0.6, warmup_steps=20),
    keras.optimizers.schedules.CosineDecay(0.1, 50, 0.2),
    keras.optimizers.schedules.CosineDecayRestarts(0.5, 16, m_mul=0.7, alpha=0.1),
    keras.optimizers.schedules.ExponentialDecay(0.5, 20, 0.5, staircase=True),
    keras.optimizers.schedules.InverseTimeDecay(0.5, 20, 0.7),
    keras.optimizers.schedules.PiecewiseConstantDecay([10, 40], [1.0, 0.5, 0.1]),
    keras.optimizers.schedules.PolynomialDecay(0.5, 30, cycle=True),
]


def serialised(schedule: Any) -> dict[str, Any]:
    """As a recommended optimizer holds it."""
    return keras.saving.serialize_keras_object(schedule)


def assert_same(schedule: Any) -> None:
    """Every one of a hundred steps; sines and powers in float32 are good to some 1e-6."""
    found = curve(serialised(schedule), 100, 512)
    assert [step for step, _ in found] == list(range(100))
    expected = [float(schedule(step)) for step in range(100)]
    np.testing.assert_allclose([value for _, value in found], expected, rtol=2e-5, atol=1e-7)


@pytest.mark.parametrize(
    ("name", "number"), [(name, n) for name, some in OURS.items() for n in range(len(some))]
)
def test_a_schedule_is_drawn_as_it_is(name: str, number: int) -> None:
    assert_same(getattr(schedules, name)(**OURS[name][number]))


@pytest.mark.parametrize("schedule", THEIRS, ids=lambda s: type(s).__name__)
def test_a_schedule_of_keras_is_drawn_as_it_is(schedule: Any) -> None:
    assert_same(schedule)


def test_every_schedule_of_the_catalogue_and_of_keras_can_be_drawn() -> None:
    catalogue = {entry["class_name"] for entry in published()["schedules"]}
    assert catalogue == OURS.keys() | FOLLOWS
    base = keras.optimizers.schedules.LearningRateSchedule
    public = [
        found for found in vars(keras.optimizers.schedules).values() if inspect.isclass(found)
    ]
    theirs = {found.__name__ for found in public if issubclass(found, base) and found is not base}
    assert theirs == {type(schedule).__name__ for schedule in THEIRS}
    assert FUNCTIONS.keys() == catalogue | theirs


def test_what_follows_the_loss_is_drawn_as_if_the_loss_kept_falling() -> None:
    rate = schedules.ReduceOnPlateau(schedules.LinearToZero(0.5, 50), average_steps=1, patience=1)
    optimizer = keras_gradopt.SGD(rate)
    optimizer.build([keras.Variable([1.0])])
    expected = []
    for step in range(20):
        expected.append(float(rate(step)))
        optimizer.observe(100.0 - step)
    config = {"schedule": serialised(schedules.LinearToZero(0.5, 50)), "average_steps": 1}
    found = curve({"class_name": "ReduceOnPlateau", "config": config}, 20, 20)
    np.testing.assert_allclose([value for _, value in found], expected, rtol=1e-6)


def test_points_reach_from_the_first_step_to_the_last() -> None:
    found = curve(0.1, 10**9, 5)
    assert found == [(step, 0.1) for step in (0, 250000000, 500000000, 749999999, 999999999)]
    assert curve(0.1, 1, 512) == [(0, 0.1)]


def test_what_grows_beyond_every_number_is_infinite() -> None:
    config = {"initial_learning_rate": 1.0, "decay_steps": 1, "decay_rate": 10.0}
    found = curve({"class_name": "ExponentialDecay", "config": config}, 1000, 1000)
    assert found[300] == (300, pytest.approx(1e300))
    assert found[999] == (999, math.inf)


@pytest.mark.parametrize(
    ("schedule", "told"),
    [
        ({"class_name": "Spiral", "config": {}}, "must be one of Constant"),
        ({"class_name": "Constant", "config": {}}, "missing a required argument: 'value'"),
        ({"class_name": "Constant", "config": {"value": 1.0, "slope": 2}}, "'slope'"),
        ({"class_name": "LinearToZero", "config": {"initial": 1, "total_steps": 0}}, "of 0 steps"),
        ({"class_name": "Cyclic", "config": {"base": 0, "peak": 1, "mode": "round"}}, "'round'"),
        ({"class_name": "PiecewiseConstant", "config": {"boundaries": [2, 1], "values": [1] * 3}},
         "boundaries must rise"),
        ({"class_name": "Sequential", "config": {"boundaries": [], "schedules": []}},
         "one fewer"),
        ({"class_name": "OneCycle", "config": {"peak": 1, "total_steps": 3}}, "above 1 / pct"),
    ],
)  # fmt: skip
def test_what_cannot_be_drawn_is_told(schedule: dict[str, Any], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        curve(schedule, 10, 10)
