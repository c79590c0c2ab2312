"""Parameter groups against torch's, in fit, and where they are given wrongly."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest
import torch
from keras import ops

import keras_gradopt as kg
from tests.keras_gradopt.parity import DECAY, STEPS, TOLERANCE, torch_path
from tests.keras_gradopt.problems import (
    assert_close,
    gradients,
    network,
    regression_data,
    start_weights,
    train,
    values,
)

# The variables of the test problem are called w0 to w3.
GROUPS = {"w1|w2": {"learning_rate": 0.1}, "w3": {"weight_decay": 0}}


def torch_groups(make: Callable[[list], Any], rate: float) -> Callable[[list], Any]:
    """The same groups as torch has them."""

    def build(ws: list) -> Any:
        return make(
            [
                {"params": [ws[0]]},
                {"params": [ws[1], ws[2]], "lr": 0.1 * rate},
                {"params": [ws[3]], "weight_decay": 0.0},
            ]
        )

    return build


def test_rates_and_decays_by_group_follow_torch_adamw() -> None:
    ours = train(kg.AdamW(0.02, weight_decay=DECAY, epsilon=1e-4, groups=GROUPS), STEPS)
    make = torch_groups(lambda p: torch.optim.AdamW(p, lr=0.02, eps=1e-4, weight_decay=DECAY), 0.02)
    assert_close(ours, torch_path(make), TOLERANCE)


def test_rates_by_group_follow_torch_sgd_with_momentum() -> None:
    groups = {"w1|w2": {"learning_rate": 0.1}}
    ours = train(kg.SGD(0.02, momentum=0.9, nesterov=True, groups=groups), STEPS)
    make = torch_groups(lambda p: torch.optim.SGD(p, lr=0.02, momentum=0.9, nesterov=True), 0.02)
    assert_close(ours, torch_path(make), TOLERANCE)


def test_it_is_the_step_that_is_scaled_not_the_gradient() -> None:
    """A scaled gradient would leave a rule that divides by the gradient's size as it is."""
    w, v = (
        keras.Variable(np.ones(2, "float32"), name="w"),
        keras.Variable(np.ones(2, "float32"), name="v"),
    )
    optimizer = kg.Adam(0.1, groups={"v": {"learning_rate": 0.25}})
    optimizer.apply([ops.ones((2,)), ops.ones((2,))], [w, v])
    np.testing.assert_allclose(values([w])[0], 0.9, rtol=1e-5)
    np.testing.assert_allclose(values([v])[0], 0.975, rtol=1e-5)


def test_frozen_variables_rest_and_count_in_no_norm() -> None:
    frozen = kg.Adam(0.05, global_clipnorm=0.5, groups={"w0|w3": {"frozen": True}})
    path = train(frozen, 5)
    alone = kg.Adam(0.05, global_clipnorm=0.5)
    start = start_weights()
    ws = [keras.Variable(start[i], name=f"w{i}") for i in (1, 2)]
    for number in range(5):
        every = gradients([start[0], *values(ws), start[3]], number)
        alone.apply([ops.convert_to_tensor(g) for g in every[1:3]], ws)
    assert_close([path[-1]], [[start[0], *values(ws), start[3]]], 1e-6)
    for v in frozen.variables:
        if "w0" in v.name or "w3" in v.name:
            np.testing.assert_array_equal(values([v])[0], 0.0)


def test_everything_frozen_is_no_step_at_all() -> None:
    path = train(kg.AdamW(0.05, groups={"": {"frozen": True}}), 2)
    assert_close([path[-1]], [start_weights()], 0.0)


def test_the_first_pattern_that_is_found_counts() -> None:
    groups = {"kernel": {"frozen": True}, "dense": {"learning_rate": 0.5}}
    model = network()
    before = values(model.trainable_variables)
    model.compile(optimizer=kg.SGD(0.1, groups=groups), loss="mse")
    x, y = regression_data(32)
    model.fit(x, y, epochs=1, batch_size=32, verbose=0)
    moved = {
        v.name: not np.array_equal(a, b)
        for v, a, b in zip(
            model.trainable_variables, before, values(model.trainable_variables), strict=True
        )
    }
    assert moved == {"kernel": False, "bias": True}


def test_groups_are_saved_with_the_model(tmp_path: Any) -> None:
    model = network()
    groups = {"bias": {"learning_rate": 2.0, "weight_decay": 0.0}}
    model.compile(optimizer=kg.AdamW(0.01, groups=groups), loss="mse")
    x, y = regression_data(32)
    model.fit(x, y, epochs=1, verbose=0)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert loaded.optimizer.get_config()["groups"] == groups
    for other in (model, loaded):
        other.fit(x, y, epochs=1, batch_size=32, shuffle=False, verbose=0)
    assert_close([values(loaded.variables)], [values(model.variables)], 0.0)


def test_what_is_excluded_from_weight_decay_stays_excluded_in_a_group() -> None:
    w = keras.Variable(np.ones(2, "float32"), name="w")
    optimizer = kg.SGD(0.1, weight_decay=0.5, groups={"w": {"learning_rate": 0.5}})
    optimizer.exclude_from_weight_decay(var_list=[w])
    optimizer.apply([ops.ones((2,))], [w])
    np.testing.assert_allclose(values([w])[0], 0.95, rtol=1e-6)


@pytest.mark.parametrize(
    ("groups", "message"),
    [
        (["w"], "groups must map regular expressions"),
        ({"(": {}}, r"'\(' is not a regular expression"),
        ({"w": {"lr": 0.1}}, "may hold learning_rate, weight_decay, frozen, received lr"),
        ({"w": 0.1}, "received 0.1"),
        ({"w": {"learning_rate": -1}}, "learning_rate must be a factor of at least 0, received -1"),
        ({"w": {"weight_decay": float("nan")}}, "weight_decay must be a factor"),
        ({"w": {"frozen": 1}}, "frozen must be True or False, received 1"),
    ],
)  # fmt: skip
def test_groups_that_are_none_are_named(groups: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        kg.SGD(0.1, groups=groups)


def test_a_pattern_that_is_found_nowhere_is_refused() -> None:
    optimizer = kg.SGD(0.1, groups={"embeding": {"frozen": True}})
    with pytest.raises(ValueError, match="'embeding' is found in no variable's path.*w0"):
        train(optimizer, 1)


def test_a_wrapper_takes_groups_through_its_inner_optimizer() -> None:
    with pytest.raises(ValueError, match="groups through its inner optimizer"):
        kg.Lookahead(kg.SGD(0.1), groups={"w": {"frozen": True}})
