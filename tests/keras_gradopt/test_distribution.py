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


@pytest.fixture(scope="module", params=["tensorflow", "jax"])
def found(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, np.ndarray]:
    """Weights and state after training on one device and on two: tf.distribute's and JAX'."""
    path = tmp_path_factory.mktemp(request.param) / "found.npz"
    done = subprocess.run(
        [sys.executable, "-m", "tests.keras_gradopt.devices", str(path)],
        check=False,
        cwd=ROOT,
        env={
            **os.environ,
            "KERAS_BACKEND": request.param,
            "TF_CPP_MIN_LOG_LEVEL": "3",
            "XLA_FLAGS": "--xla_force_host_platform_device_count=2",
        },
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    with np.load(path) as file:
        return {**file, "backend": np.array(request.param)}


def test_two_devices_train_as_one_does(found: dict[str, np.ndarray]) -> None:
    of_one = re.compile(r"(.*)/1/(weight|state)/(\d+)/0")
    names = [match for name in found if (match := of_one.fullmatch(name))]
    assert len({match[1] for match in names}) > 5
    far = {}
    for case, kind, number in (match.groups() for match in names):
        one, two = (found[f"{case}/{count}/{kind}/{number}/0"] for count in (1, 2))
        deviation = np.abs(one - two).max() / max(1e-2, np.abs(one).max())
        # 8 steps of float32 sums in another order; roots of matrices that hold few gradients' outer
        # products keep half of the digits, and a network that reads logarithms of small gradients
        # magnifies their rounding.
        allowed = {"Shampoo": 2e-2, "LearnedOptimizer": 5e-4}.get(case, 1e-5)
        if not deviation <= allowed:
            far[case, kind, number] = float(deviation)
    assert not far


def test_every_device_keeps_the_same_weights_and_state(found: dict[str, np.ndarray]) -> None:
    of_two = re.compile(r"(.*/2/(weight|state)/\d+)/0")
    names = [match[1] for name in found if (match := of_two.fullmatch(name))]
    assert names
    for name in names:
        np.testing.assert_array_equal(found[f"{name}/0"], found[f"{name}/1"])


def test_a_rule_that_evaluates_the_loss_is_refused_in_several_replicas(
    found: dict[str, np.ndarray],
) -> None:
    # On JAX one program evaluates the loss of the whole batch.
    refused = "tf.distribute cuts into 2" in str(found["refused"])
    assert refused == (found["backend"] == "tensorflow")
