"""Trajectories against implementations that nobody here wrote, and the page that lists them."""

from __future__ import annotations

from collections.abc import Callable

import keras
import numpy as np
import pytest

import keras_gradopt as kg
from keras_gradopt import registry
from tests.keras_gradopt.parity import PAGE, STEPS, TOLERANCE, deviation, pairs
from tests.keras_gradopt.problems import assert_close, start_weights, train

PAIRS = pairs()


@pytest.mark.parametrize("name", PAIRS)
def test_a_rule_follows_its_peer_step_for_step(name: str) -> None:
    pair = PAIRS[name]
    assert pair.tolerance <= TOLERANCE or pair.why, "a larger tolerance needs its reason"
    assert deviation(pair) <= pair.tolerance


@pytest.mark.backend_free
def test_every_rule_has_a_peer_or_says_why_not() -> None:
    followed = {name.partition(" | ")[0] for name in PAIRS}
    alone = {
        cls.__name__
        for cls in registry.optimizer_classes().values()
        if cls.__name__ not in followed and cls.needs == "gradient"
    }
    assert not alone, "give them a pair in tests/keras_gradopt/peers/"


@pytest.mark.backend_free
def test_the_page_lists_every_pair_within_its_bound() -> None:
    rows = {}
    for line in PAGE.read_text("utf-8").splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if len(cells) == 6 and cells[0] not in ("method", "---"):
            rows[f"{cells[0]} | {cells[1]}"] = cells[2:5]
    assert list(rows) == list(PAIRS), "run: python -m tests.keras_gradopt.parity"
    for name, cells in rows.items():
        assert all(float(cell) <= PAIRS[name].tolerance for cell in cells), name


@pytest.mark.parametrize("graft", [lambda: kg.SGD(1.0), lambda: kg.Adam(1.0), kg.Adagrad])
def test_shampoo_before_preconditioning_is_the_grafted_method(graft: Callable) -> None:
    shampoo = kg.Shampoo(0.02, grafting=graft(), start_preconditioning_step=100)
    reduced = graft()
    reduced.learning_rate = 0.02
    assert_close(train(shampoo, STEPS), train(reduced, STEPS), TOLERANCE)


def test_shampoo_with_grafting_keeps_the_grafted_method_s_step_size() -> None:
    shampoo, plain = kg.Shampoo(0.02, grafting=kg.SGD(1.0)), kg.SGD(0.02)
    (moved,), (reference,) = train(shampoo, 1), train(plain, 1)
    for start, a, b in zip(start_weights(), moved, reference, strict=True):
        assert np.linalg.norm(a - start) == pytest.approx(np.linalg.norm(b - start), rel=1e-4)


def test_adam_corrects_its_moments_exactly_at_the_first_step() -> None:
    """With float32 powers of 0.999 the first step would be off by 6e-6 of itself."""
    w = keras.Variable(np.zeros(3, "float32"))
    kg.Adam(1.0, epsilon=1e-30).apply([keras.ops.array([0.1, -2.0, 30.0])], [w])
    np.testing.assert_allclose(keras.ops.convert_to_numpy(w.value), [-1.0, 1.0, -1.0], rtol=2e-7)
