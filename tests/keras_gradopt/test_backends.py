"""The same trajectory on JAX, TensorFlow and torch."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from keras_gradopt import registry

ROOT = Path(__file__).resolve().parents[2]
BACKENDS = ("jax", "tensorflow", "torch")


@pytest.fixture(scope="module")
def trajectories(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, np.ndarray]]:
    """Where every optimizer ends after 20 steps, by backend, each from a process of its own."""
    folder = tmp_path_factory.mktemp("trajectories")
    found = {}
    for backend in BACKENDS:
        path = folder / f"{backend}.npz"
        subprocess.run(
            [sys.executable, "-m", "tests.keras_gradopt.trajectories", str(path)],
            check=True,
            cwd=ROOT,
            env={**os.environ, "KERAS_BACKEND": backend},
            capture_output=True,
            text=True,
        )
        with np.load(path) as file:
            assert str(file["backend"]) == backend
            found[backend] = {name: file[name] for name in file.files if name != "backend"}
    return found


@pytest.mark.backend_free
@pytest.mark.parametrize("other", ["tensorflow", "torch"])
def test_every_optimizer_ends_at_the_same_weights(
    trajectories: dict[str, dict[str, np.ndarray]], other: str
) -> None:
    reference, compared = trajectories["jax"], trajectories[other]
    assert reference.keys() == compared.keys()
    assert len(reference) > 4
    far = {}
    for name, expected in reference.items():
        deviation = np.abs(compared[name] - expected).max() / np.abs(expected).max()
        # 20 steps of float32 rounding; roots of matrices that hold one gradient's outer product
        # keep half of its digits.
        allowed = 1e-3 if name.startswith("Shampoo") else 1e-5
        if name.startswith("NaturalGradient"):
            # Conjugate gradients magnify rounding, beside weights of 1e-3 to 1e-2 of those.
            allowed = 1e-2
        if name.startswith("Hybrid"):
            # Its second part begins where gradients are small, and divides them by their size.
            allowed = 1e-4
        if registry.find(name.partition("/")[0]).wants_whole_data:
            # The loss is flat to its last digit within the root of that.
            allowed = 1e-3
        if deviation > allowed:
            far[name] = deviation
    assert not far
