"""What every test runs under: one backend per process, fixed seeds, float32, quiet logs."""

from __future__ import annotations

import os
import random
import shutil
import sys
from collections.abc import Iterator
from typing import Any

# Read when the frameworks are imported, so they are set before anything else is.
os.environ.setdefault("KERAS_BACKEND", "jax")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault(
    "TF_ENABLE_ONEDNN_OPTS", "0"
)  # oneDNN sums in another order at each thread count
os.environ.setdefault("JAX_PLATFORMS", "cpu")  # tolerances are the CPU's; set it to test elsewhere
os.environ.setdefault("GRADOPT_CACHE", "off")  # tests compile what they test

import numpy as np
import pytest

# Only the tests of pages need it.
CHROMIUM = shutil.which("chromium")
ARGUMENTS = [
    "--no-sandbox", "--disable-gpu", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--no-first-run",
]  # fmt: skip

SEED = 0


@pytest.fixture(scope="session")
def backend() -> str:
    """Name of the backend that this process tests."""
    return os.environ["KERAS_BACKEND"]


@pytest.fixture(autouse=True)
def same_start() -> Iterator[None]:
    """Every test starts from the same seeds and in float32, and leaves Keras as it found it.

    Not `keras.utils.set_random_seed`: it imports TensorFlow wherever that is installed. Only what
    a test file has imported is seeded, so tests that need no framework start none.
    """
    random.seed(SEED)
    np.random.seed(SEED)  # noqa: NPY002 - Keras' unseeded initializers and data loaders draw from here
    if torch := sys.modules.get("torch"):
        torch.manual_seed(SEED)
    if (tensorflow := sys.modules.get("tensorflow")) and hasattr(tensorflow, "random"):
        tensorflow.random.set_seed(SEED)
    yield
    if keras := sys.modules.get("keras"):
        keras.config.set_floatx("float32")
        keras.config.set_dtype_policy("float32")


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Debian's Chromium, for pages as users see them."""
    if CHROMIUM is None:
        if os.environ.get("CI"):
            pytest.fail("CI has to test the page: .ci/run installs chromium")
        pytest.skip("needs a browser: apt install chromium")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        launched = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield launched
        launched.close()
