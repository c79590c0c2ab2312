"""Gradient transforms against optax and torch, and on any optimizer."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import optax
import pytest
from keras import ops

import keras_gradopt as kg
from keras_gradopt import registry
from keras_gradopt.arguments import Hyperparameters
from tests.keras_gradopt.problems import assert_close, gradients, start_weights, train

TRANSFORMS = registry.members("keras_gradopt.transforms")
# A bound that some gradients pass and some do not, and the peer.
PEERS: dict[str, tuple[dict[str, float], Any]] = {
    "ClipByGlobalNorm": ({"norm": 1.5}, optax.clip_by_global_norm(1.5)),
    "ClipByNorm": (
        {"norm": 1.5},
        # optax clips blocks of rows; per variable it is the clipping of a tree with one leaf.
        optax.stateless(
            lambda tree, _: [optax.clip_by_global_norm(1.5).update([g], None)[0][0] for g in tree]
        ),
    ),
    "ClipByValue": ({"value": 0.4}, optax.clip(0.4)),
}
every_transform = pytest.mark.parametrize("name", sorted(TRANSFORMS))


@every_transform
def test_it_equals_optax(name: str) -> None:
    arguments, peer = PEERS[name]
    gs = gradients(start_weights(), 0)
    ours, _ = TRANSFORMS[name](**arguments).apply(
        [ops.convert_to_tensor(g) for g in gs], [], {}, Hyperparameters(step=1.0, **arguments)
    )
    theirs, _ = peer.update(gs, peer.init(gs))
    for a, e, g in zip(ours, theirs, gs, strict=True):
        np.testing.assert_allclose(ops.convert_to_numpy(a), e, rtol=1e-6)
        assert a.shape == g.shape


@every_transform
def test_any_optimizer_takes_it_saves_it_and_applies_it(name: str) -> None:
    arguments, peer = PEERS[name]
    transform = TRANSFORMS[name](**arguments)
    optimizer = kg.SGD(1.0, gradient_transforms=[transform])
    again = kg.SGD.from_config(optimizer.get_config())
    assert_close(train(again, 4), train(optimizer, 4), 0.0)
    start = start_weights()
    theirs, _ = peer.update(gradients(start, 0), peer.init(start))
    moved = train(kg.SGD(1.0, gradient_transforms=[transform]), 1)[0]
    assert_close([moved], [[w - np.asarray(g) for w, g in zip(start, theirs, strict=True)]], 1e-6)


@pytest.mark.parametrize(
    ("argument", "name"),
    [
        ("clipnorm", "ClipByNorm"),
        ("clipvalue", "ClipByValue"),
        ("global_clipnorm", "ClipByGlobalNorm"),
    ],
)
def test_keras_arguments_are_the_same_transforms(argument: str, name: str) -> None:
    bound = next(iter(PEERS[name][0].values()))
    by_argument = train(kg.SGD(0.1, **{argument: bound}), 5)
    by_transform = train(kg.SGD(0.1, gradient_transforms=[TRANSFORMS[name](bound)]), 5)
    assert_close(by_argument, by_transform, 0.0)
    assert_close(by_argument, train(keras.optimizers.SGD(0.1, **{argument: bound}), 5), 1e-6)


@every_transform
def test_a_zero_gradient_stays_zero(name: str) -> None:
    arguments, _ = PEERS[name]
    (g,), _ = TRANSFORMS[name](**arguments).apply(
        [ops.zeros((3,))], [], {}, Hyperparameters(step=1.0, **arguments)
    )
    np.testing.assert_array_equal(ops.convert_to_numpy(g), np.zeros(3))


@every_transform
@pytest.mark.parametrize("value", [0.0, -1.0, float("nan"), "big"])
def test_bad_bounds_are_named(name: str, value: Any) -> None:
    argument = next(iter(PEERS[name][0]))
    with pytest.raises(ValueError, match=f"{argument} must be"):
        TRANSFORMS[name](value)


def test_one_of_the_three_clipping_arguments_at_a_time() -> None:
    with pytest.raises(ValueError, match="Only one of"):
        kg.SGD(clipnorm=1.0, clipvalue=1.0)


def test_what_is_no_transform_is_refused() -> None:
    with pytest.raises(ValueError, match=r"gradient_transforms takes objects of"):
        kg.SGD(gradient_transforms=[lambda g: g])
