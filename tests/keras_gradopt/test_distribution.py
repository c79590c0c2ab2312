"""Training on several devices goes where training on one goes."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

pytestmark = pytest.mark.backend_free

ROOT = Path(__file__).resolve().parents[2]


def arrays_of(module: str, path: Path, **environment: str) -> dict[str, np.ndarray]:
    """What a module of this folder writes, run in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-m", f"tests.keras_gradopt.{module}", str(path)],
        check=False,
        cwd=ROOT,
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", **environment},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    with np.load(path) as file:
        return dict(file)


def farther_than(
    allowed: dict[str, float], one: dict[str, np.ndarray], many: dict[str, np.ndarray]
) -> dict[str, float]:
    """Arrays of `many` that are farther from those of `one` than their case allows."""
    assert one.keys() == many.keys()
    far = {}
    for name, expected in one.items():
        deviation = np.abs(many[name] - expected).max() / max(1e-3, np.abs(expected).max())
        if not deviation <= allowed.get(name.split("/")[0], 1e-5):
            far[name] = float(deviation)
    return far


@pytest.fixture(scope="module")
def mirrored(tmp_path_factory: pytest.TempPathFactory) -> dict[str, np.ndarray]:
    """Weights and state after training in one and in two replicas of tf.distribute."""
    path = tmp_path_factory.mktemp("mirrored") / "found.npz"
    return arrays_of("replicas", path, KERAS_BACKEND="tensorflow")


def split_by_replicas(
    found: dict[str, np.ndarray], kind: str
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Arrays of one kind from one replica, and from the first of two, under the same names."""
    one, two = (
        {
            name.replace(f"/{count}/{kind}/", "/"): value
            for name, value in found.items()
            if f"/{count}/{kind}/" in name and name.endswith("/0")
        }
        for count in (1, 2)
    )
    return one, two


def test_two_replicas_train_as_one_does(mirrored: dict[str, np.ndarray]) -> None:
    one, two = split_by_replicas(mirrored, "weight")
    assert len({name.split("/")[0] for name in one}) > 5
    # 8 steps of float32 sums in another order; roots of matrices that hold few gradients' outer
    # products keep half of the digits.
    assert not farther_than({"Shampoo": 1e-2}, one, two)
    state_of_one, state_of_two = split_by_replicas(mirrored, "state")
    assert state_of_one.keys() == state_of_two.keys()


def test_every_replica_keeps_the_same_weights_and_state(mirrored: dict[str, np.ndarray]) -> None:
    of_two = re.compile(r"(.*/2/(weight|state)/\d+)/0")
    firsts = [found[1] for name in mirrored if (found := of_two.fullmatch(name))]
    assert firsts
    for name in firsts:
        np.testing.assert_array_equal(mirrored[f"{name}/0"], mirrored[f"{name}/1"])


def test_a_rule_that_evaluates_the_loss_is_refused_in_several_replicas(
    mirrored: dict[str, np.ndarray],
) -> None:
    assert "tf.distribute cuts into 2" in str(mirrored["refused"])
