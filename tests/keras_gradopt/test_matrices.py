"""Muon and SOAP: what their matrices do that no peer's trajectory shows."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest
from keras import ops

import keras_gradopt as kg
from tests.keras_gradopt.problems import assert_close, start_weights, train, values


def stepped(optimizer: Any, w: keras.Variable, grads: list[np.ndarray]) -> np.ndarray:
    """Where these gradients move a variable, minus where it began."""
    before = values([w])[0]
    for g in grads:
        optimizer.apply([ops.convert_to_tensor(g)], [w])
    return values([w])[0] - before


def some_gradients(shape: tuple[int, ...], steps: int = 3, scale: float = 1.0) -> list[np.ndarray]:
    rng = np.random.default_rng(11)
    return [(scale * rng.normal(size=shape)).astype("float32") for _ in range(steps)]


@pytest.mark.parametrize("shape", [(6, 4), (4, 6), (64, 32)])
@pytest.mark.parametrize("scale", [1e-4, 1.0, 1e4])
def test_muon_moves_all_singular_directions_alike_at_any_scale(
    shape: tuple[int, int], scale: float
) -> None:
    w = keras.Variable(np.zeros(shape, "float32"))
    optimizer = kg.Muon(1.0, rms_rate=None, weight_decay=None)
    step = stepped(optimizer, w, some_gradients(shape, 1, scale))
    found = np.linalg.svd(step, compute_uv=False)
    # The coefficients trade exactness for speed: Jordan reports values from 0.7 to 1.2.
    assert found.min() > 0.65
    assert found.max() < 1.25


@pytest.mark.parametrize("adjust", ["match_rms_adamw", "original"])
@pytest.mark.parametrize(
    ("shape", "matrix", "name"),
    [((3, 2, 4, 5), (24, 5), "kernel"), ((4, 2, 3), (4, 6), "query/kernel")],
)
def test_muon_moves_a_kernel_as_its_matrix(
    shape: tuple[int, ...], matrix: tuple[int, int], name: str, adjust: Any
) -> None:
    start = np.random.default_rng(2).normal(size=shape).astype("float32")
    *scopes, name = name.split("/")
    with keras.name_scope(scopes[0] if scopes else "conv"):
        kernel = keras.Variable(start, name=name)
    flat = keras.Variable(start.reshape(matrix), name="kernel")
    grads = some_gradients(shape)
    moved = stepped(kg.Muon(0.1, adjust=adjust), kernel, grads)
    expected = stepped(kg.Muon(0.1, adjust=adjust), flat, [g.reshape(matrix) for g in grads])
    # An engine may scale and add in another order for another shape.
    np.testing.assert_allclose(moved.reshape(matrix), expected, rtol=1e-5, atol=1e-6)


def test_muon_leaves_what_is_excluded_to_adamw() -> None:
    inputs = keras.Input((3,), dtype="int32")
    hidden = keras.layers.Embedding(5, 4, name="tokens")(inputs)
    hidden = keras.layers.Dense(4, name="hidden")(hidden)
    model = keras.Model(inputs, keras.layers.Dense(5, name="logits")(hidden))
    ws = model.trainable_variables
    start = values(ws)
    grads = [some_gradients(w.shape, 3) for w in ws]
    paths = []
    for optimizer in (
        kg.Muon(0.01, weight_decay=0.3, exclude_layers=["^logits/kernel"]),
        kg.AdamW(0.01, weight_decay=0.3),
    ):
        for w, value in zip(ws, start, strict=True):
            w.assign(value)
        for step in range(3):
            optimizer.apply([ops.convert_to_tensor(g[step]) for g in grads], ws)
        paths.append(values(ws))
    same = [np.allclose(a, b, rtol=1e-6, atol=1e-7) for a, b in zip(*paths, strict=True)]
    moved_alike = {w.path for w, alike in zip(ws, same, strict=True) if alike}
    assert {w.path for w in ws} - moved_alike == {"hidden/kernel"}


def test_muon_refuses_a_pattern_that_finds_nothing() -> None:
    w = keras.Variable(np.zeros((2, 2), "float32"), name="kernel")
    with pytest.raises(ValueError, match=r"'logit' is found in no variable's path.*kernel"):
        kg.Muon(exclude_layers=["logit"]).build([w])
    with pytest.raises(ValueError, match=r"use \['logits'\]"):
        kg.Muon(exclude_layers="logits")


def test_adamw_s_own_decay_spares_what_is_excluded_from_decay() -> None:
    optimizer = kg.Muon(0.1, weight_decay=None, adam_weight_decay=0.5)
    optimizer.exclude_from_weight_decay(var_names=["w1"])
    plain, decayed = train(kg.Muon(0.1, weight_decay=None), 1)[0], train(optimizer, 1)[0]
    np.testing.assert_allclose(decayed[0], plain[0], rtol=1e-6, atol=1e-7)
    np.testing.assert_allclose(decayed[1], plain[1], rtol=1e-6, atol=1e-7)
    only_vectors = train(kg.Muon(0.1, weight_decay=None, adam_weight_decay=0.5), 1)[0]
    assert not np.allclose(only_vectors[1], plain[1])


def test_soap_without_bases_is_adamw_one_step_later() -> None:
    ours, ws = kg.SOAP(0.02, epsilon=1e-7, max_precondition_dim=0, weight_decay=0.1), []
    adam, vs = kg.AdamW(0.02, beta_1=0.95, beta_2=0.95, weight_decay=0.1), []
    for start in start_weights():
        ws.append(keras.Variable(start))
        # Its first step only decays.
        vs.append(keras.Variable(start * np.float32(1 - 0.02 * 0.1)))
    ours.apply([ops.ones(w.shape) for w in ws], ws)
    assert_close([values(ws)], [values(vs)], 1e-6)
    for step in range(8):
        gs = [ops.convert_to_tensor(some_gradients(w.shape, step + 1)[-1]) for w in ws]
        ours.apply(gs, ws)
        adam.apply(gs, vs)
        # The powers of the decay rates are of another count: one rounding each.
        assert_close([values(ws)], [values(vs)], 1e-6)


def test_soap_turns_with_the_coordinates() -> None:
    """Its steps on a rotated problem are the rotated steps, which Adam's are not."""
    rng = np.random.default_rng(4)
    left, right = (np.linalg.qr(rng.normal(size=(n, n)))[0] for n in (4, 4))
    grads = some_gradients((4, 4), 9)
    turned = [(left @ g @ right).astype("float32") for g in grads]

    def moved(make: Any, gs: list[np.ndarray]) -> np.ndarray:
        w = keras.Variable(np.zeros((4, 4), "float32"))
        return stepped(make(), w, gs)

    def soap() -> Any:
        return kg.SOAP(0.1, precondition_frequency=2)

    # Eigenvectors of float32 statistics keep 4 to 5 digits.
    np.testing.assert_allclose(left @ moved(soap, grads) @ right, moved(soap, turned), atol=1e-4)
    adam = left @ moved(kg.Adam, grads) @ right
    assert np.abs(adam - moved(kg.Adam, turned)).max() > 1e-4


def test_soap_finds_the_same_basis_where_the_first_gradient_says_nothing() -> None:
    """A rank-one start leaves a basis open, which rounding would choose differently each time."""
    rng = np.random.default_rng(6)
    first = np.outer(rng.normal(size=7), rng.normal(size=5)).astype("float32")
    later = some_gradients((7, 5), 4)
    paths = []
    for factor in (1.0, 1.0 + 1e-6):
        w = keras.Variable(np.zeros((7, 5), "float32"))
        noise = np.float32(factor)
        paths.append(stepped(kg.SOAP(0.1), w, [first * noise, *later]))
    np.testing.assert_allclose(paths[0], paths[1], atol=1e-4)


def test_soap_moves_a_vector_with_a_basis_as_a_matrix_of_one_column() -> None:
    grads = some_gradients((5,), 6)
    vector, column = (keras.Variable(np.zeros(shape, "float32")) for shape in ((5,), (5, 1)))

    def soap() -> Any:
        return kg.SOAP(0.1, precondition_1d=True, precondition_frequency=2)

    moved = stepped(soap(), vector, grads)
    expected = stepped(soap(), column, [g[:, None] for g in grads])
    np.testing.assert_allclose(moved, expected[:, 0], atol=1e-6)


def test_soap_starts_from_a_gradient_of_zeros() -> None:
    w = keras.Variable(np.ones((3, 2), "float32"))
    moved = stepped(kg.SOAP(0.1), w, [np.zeros((3, 2), "float32"), *some_gradients((3, 2), 12)])
    assert np.all(np.isfinite(moved))
    assert np.abs(moved).min() > 0
