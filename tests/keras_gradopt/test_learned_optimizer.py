"""LearnedOptimizer: its cell, its weights in files and models, and that what ships was learned."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from keras import ops

import keras_gradopt as kg
from keras_gradopt import backend
from keras_gradopt.learned import network
from keras_gradopt.learned.learned_optimizer import UNITS, lstm, preprocessed
from tests.keras_gradopt.peers.learned import SHAPES, arrays, paper_features
from tests.keras_gradopt.problems import network as small_model
from tests.keras_gradopt.problems import (
    regression_data,
    values,
)

JIT = keras.backend.backend() == "jax"


# ---------------------------------------------------------------------- the arithmetic


def test_the_cell_is_that_of_torch() -> None:
    torch = pytest.importorskip("torch", reason="the peer is torch.nn.LSTM")
    rng, steps, rows = np.random.default_rng(1), 5, 7
    kernel = rng.normal(size=(2 + UNITS, 4 * UNITS)).astype("float32")
    bias = rng.normal(size=(4 * UNITS,)).astype("float32")
    xs = rng.normal(size=(steps, rows, 2)).astype("float32")
    peer = torch.nn.LSTM(2, UNITS, dtype=torch.float64)
    with torch.no_grad():
        peer.weight_ih_l0.copy_(torch.tensor(kernel[:2].T))
        peer.weight_hh_l0.copy_(torch.tensor(kernel[2:].T))
        peer.bias_ih_l0.copy_(torch.tensor(bias))
        peer.bias_hh_l0.zero_()
        expected, (_, last) = peer(torch.tensor(xs, dtype=torch.float64))
    h = c = ops.zeros((rows, UNITS))
    kernel, bias = ops.convert_to_tensor(kernel), ops.convert_to_tensor(bias)
    for x, wanted in zip(xs, expected.numpy(), strict=True):
        h, c = lstm(ops.convert_to_tensor(x), h, c, kernel, bias)
        np.testing.assert_allclose(ops.convert_to_numpy(h), wanted, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(ops.convert_to_numpy(c), last[0].numpy(), rtol=1e-5, atol=1e-6)


def test_gradients_are_preprocessed_as_in_the_paper() -> None:
    g = np.concatenate([s * np.geomspace(1e-12, 1e6, 37) for s in (-1, 1)] + [[0.0]])
    found = ops.convert_to_numpy(preprocessed(ops.convert_to_tensor(g.astype("float32"))))
    np.testing.assert_allclose(found, paper_features(g), rtol=2e-6, atol=1e-6)


def test_the_state_is_eighty_numbers_for_each_parameter() -> None:
    (entry,) = [e for e in kg.methods() if e.class_name == "LearnedOptimizer"]
    assert entry.state_multiple == 80
    assert entry.needs == "gradient"


# ---------------------------------------------------------------------- weights


def test_a_saved_model_does_not_need_the_file_of_its_weights(tmp_path: Path) -> None:
    x, y = regression_data()
    file = tmp_path / "mine.npz"
    network.write(file, arrays())
    model = small_model()
    optimizer = kg.LearnedOptimizer(0.01, weights=file)
    model.compile(optimizer=optimizer, loss="mse", jit_compile=JIT)
    model.fit(x, y, epochs=1, batch_size=16, shuffle=False, verbose=0)
    model.save(tmp_path / "m.keras")
    file.unlink()
    loaded = keras.models.load_model(tmp_path / "m.keras")
    for other in (model, loaded):
        other.fit(x, y, epochs=2, batch_size=16, shuffle=False, verbose=0)
    for a, b in zip(values(model.variables), values(loaded.variables), strict=True):
        np.testing.assert_array_equal(a, b)


def test_names_files_and_arrays_mean_the_same(tmp_path: Path) -> None:
    network.write(tmp_path / "mine.npz", arrays())
    by_file = kg.LearnedOptimizer(weights=str(tmp_path / "mine.npz"))
    by_arrays = kg.LearnedOptimizer(weights=arrays())
    assert by_file.get_config()["weights"] == by_arrays.get_config()["weights"]
    _, read = network.read(by_file.weights, SHAPES)
    for name, array in arrays().items():
        np.testing.assert_array_equal(read[name], array)
    for name in network.shipped():
        assert kg.LearnedOptimizer(weights=name).get_config()["weights"] == name


def test_writing_replaces_a_file_at_once(tmp_path: Path) -> None:
    for seed in (0, 1):
        network.write(tmp_path / "mine.npz", arrays(seed))
    assert [file.name for file in tmp_path.iterdir()] == ["mine.npz"]
    _, read = network.read(tmp_path / "mine.npz", SHAPES)
    np.testing.assert_array_equal(read["kernel_1"], arrays(1)["kernel_1"])


def _without(name: str) -> dict:
    return {n: a for n, a in arrays().items() if n != name}


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ("no_such_set", "or the path of a file that meta_train wrote; received 'no_such_set'"),
        (3, "received 3 of type int"),
        (_without("bias_out"), "weights must hold the arrays"),
        ({**arrays(), "bias_out": np.zeros(2)}, r"'bias_out': \(2,\)"),
        ({**arrays(), "bias_out": np.array([np.nan])}, "others in bias_out"),
        ("float32:AAAA", "cannot be read|must hold"),
        ("float32:?", "cannot be read"),
    ],
)
def test_other_weights_are_refused(weights: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        kg.LearnedOptimizer(weights=weights)


def test_a_file_of_something_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "text.npz").write_text("nothing")
    with pytest.raises(ValueError, match=r"text.npz' cannot be read as weights"):
        kg.LearnedOptimizer(weights=tmp_path / "text.npz")


# ---------------------------------------------------------------------- what was learned


PROBLEMS, STEPS = 32, 100


def quadratics(seed: int) -> tuple[np.ndarray, ...]:
    rng = np.random.default_rng(seed)
    shape = (PROBLEMS, 10)
    return rng.normal(size=(*shape, 10)), rng.normal(size=shape), 0.01 * rng.normal(size=shape)


def adam_ends(rate: float, problems: tuple[np.ndarray, ...]) -> np.ndarray:
    """Losses after Adam's steps, in NumPy."""
    matrix, target, w = problems
    m = v = np.zeros_like(w)
    for step in range(1, STEPS + 1):
        rest = np.einsum("kij,kj->ki", matrix, w) - target
        g = 2 * np.einsum("kij,ki->kj", matrix, rest)
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g * g
        w = w - rate * m / (1 - 0.9**step) / (np.sqrt(v / (1 - 0.999**step)) + 1e-8)
    return ((np.einsum("kij,kj->ki", matrix, w) - target) ** 2).sum(axis=1)


def learned_ends(problems: tuple[np.ndarray, ...]) -> np.ndarray:
    """Losses after as many steps of the shipped network."""
    matrix, target, w = (ops.convert_to_tensor(a.astype("float32")) for a in problems)
    rule = kg.LearnedOptimizer(weights="quadratics")

    def step(w: Any, *slots: Any) -> list:
        rest = ops.einsum("kij,kj->ki", matrix, w) - target
        g = 2.0 * ops.einsum("kij,ki->kj", matrix, rest)
        return list(rule.update(w, g, *slots, h=rule.hyperparameters(1)))

    compiled, (slots,) = backend.compiled(step), rule.initial_slots([w])
    state = [w, *slots]
    for _ in range(STEPS):
        state = compiled(*state)
    rest = ops.einsum("kij,kj->ki", matrix, state[0]) - target
    return np.asarray(ops.convert_to_numpy(ops.sum(rest * rest, axis=1)), "float64")


def test_the_shipped_network_beats_tuned_adam_on_held_out_quadratics() -> None:
    from scipy import stats

    rates = np.geomspace(0.03, 1.0, 7)
    tuning, held_out = quadratics(10_001), quadratics(10_002)
    best = min(rates, key=lambda rate: np.log(adam_ends(rate, tuning)).mean())
    assert rates[0] < best < rates[-1]
    ratios = np.log(learned_ends(held_out)) - np.log(adam_ends(best, held_out))
    assert stats.wilcoxon(ratios, alternative="less").pvalue < 0.01
    assert (ratios < 0).sum() > 0.7 * PROBLEMS
