"""A checkpoint written on one backend goes on on another as if nothing had happened."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

pytestmark = pytest.mark.backend_free

ROOT = Path(__file__).resolve().parents[2]
# Each goes on from what the one before it has left; the first also trains all the way itself.
CHAIN = ("jax", "tensorflow", "torch")


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """What every backend left, by its name; the first one's whole way under "alone"."""
    root = tmp_path_factory.mktemp("checkpoints")
    found = {}
    for name in ("alone", *CHAIN):
        found[name] = root / name
        found[name].mkdir()
    train(CHAIN[0], len(CHAIN), found["alone"])
    for checkpoint in found["alone"].glob("*.1.*"):
        checkpoint.rename(found[CHAIN[0]] / checkpoint.name)
    for before, backend in itertools.pairwise(CHAIN):
        train(backend, 1, found[backend], found[before])
    return found


def train(backend: str, stages: int, folder: Path, *start_from: Path) -> None:
    """Trains every case on a backend, in a process of its own."""
    program = [sys.executable, "-m", "tests.keras_gradopt.checkpoints"]
    done = subprocess.run(
        [*program, str(stages), str(folder), *map(str, start_from)],
        check=False,
        cwd=ROOT,
        env={**os.environ, "KERAS_BACKEND": backend, "TF_CPP_MIN_LOG_LEVEL": "3"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.mark.parametrize("stage", range(2, len(CHAIN) + 1))
def test_training_goes_on_on_another_backend(folders: dict[str, Path], stage: int) -> None:
    far, names = {}, [path.name for path in folders["alone"].glob(f"*.{stage}.npz")]
    assert len(names) > 5
    for name in names:
        alone, gone_on = folders["alone"] / name, folders[CHAIN[stage - 1]] / name
        with np.load(alone) as one, np.load(gone_on) as other:
            assert one.files == other.files
            deviation = max(
                np.abs(one[i] - other[i]).max() / max(1e-2, np.abs(one[i]).max()) for i in one.files
            )
        # Steps of float32 rounding; a gradient that is carried from step to step adds its own up.
        if not deviation <= 2e-5:
            far[name] = deviation
    assert not far
