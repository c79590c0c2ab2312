"""On an accelerator every rule does what it does on the CPU, and does not wait for the host.

They are skipped where there is none:

KERAS_BACKEND=torch python -m pytest tests/keras_gradopt/test_accelerator.py
JAX_PLATFORMS=cuda,cpu KERAS_BACKEND=jax python -m pytest tests/keras_gradopt/test_accelerator.py
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from keras import ops

import keras_gradopt as kg
from keras_gradopt import registry
from tests.keras_gradopt.problems import assert_close, network, regression_data, train
from tests.keras_gradopt.trajectories import base_arguments

BACKEND = keras.backend.backend()


def accelerator() -> str | None:
    """The first one that the backend finds, as `keras.device` takes it."""
    if BACKEND == "torch":
        import torch

        return "cuda:0" if torch.cuda.is_available() else None
    if BACKEND == "jax":
        import jax

        return None if jax.default_backend() == "cpu" else "gpu:0"
    import tensorflow as tf

    return "gpu:0" if tf.config.list_physical_devices("GPU") else None


DEVICE = accelerator()
if DEVICE is None:
    pytest.skip("needs an accelerator", allow_module_level=True)
# What frameworks say of a device's versions is no matter here.
pytestmark = pytest.mark.filterwarnings("ignore")
CLASSES = {n: c for n, c in registry.optimizer_classes().items() if c.needs == "gradient"}
STEPS = 20
# Decompositions on a device end in other bases, which their gradients' noise is rotated into.
DECOMPOSING = {"Shampoo": 1e-2, "SOAP": 1e-2}
# Decompositions wait for what they have found, and SOAP asks whether its bases are due.
WAITING = {"Shampoo", "SOAP"}


@pytest.mark.parametrize("name", CLASSES)
def test_a_rule_goes_where_it_goes_on_the_cpu(name: str) -> None:
    make = CLASSES[name].example
    there = train(make(**base_arguments()), STEPS)
    with keras.device("cpu:0"):
        here = train(make(**base_arguments()), STEPS)
    assert_close(there, here, DECOMPOSING.get(name, 1e-5))


@pytest.mark.parametrize("name", CLASSES)
def test_no_step_waits_for_the_device(name: str) -> None:
    if BACKEND == "tensorflow":
        pytest.skip("TensorFlow does not say what waits")
    if name in WAITING:
        pytest.skip("its decompositions wait")
    optimizer = CLASSES[name].example(**base_arguments())
    rng = np.random.default_rng(0)
    shapes = [(3,), (7,), (4, 5), (6, 5), (2, 2, 3, 4), (300, 400)]
    variables = [keras.Variable(rng.normal(size=s).astype("float32")) for s in shapes]
    gs = [ops.convert_to_tensor(0.1 * rng.normal(size=s).astype("float32")) for s in shapes]
    optimizer.build(variables)
    # The first steps record what the rule does.
    for _ in range(2):
        optimizer.apply(gs, variables)
    with forbidden_to_wait():
        for _ in range(3):
            optimizer.apply(gs, variables)
    assert all(np.isfinite(ops.convert_to_numpy(v)).all() for v in variables)


def forbidden_to_wait() -> Any:
    """Raises where the host waits for a number."""
    if BACKEND == "jax":
        import jax

        return jax.transfer_guard_device_to_host("disallow")
    import contextlib

    import torch

    @contextlib.contextmanager
    def strict() -> Any:
        torch.cuda.set_sync_debug_mode("error")
        try:
            yield
        finally:
            torch.cuda.set_sync_debug_mode("default")

    return strict()


@pytest.mark.parametrize("policy", ["float32", "mixed_bfloat16", "mixed_float16"])
@pytest.mark.parametrize("name", ["AdamW", "Lion", "Lamb", "Muon", "ScheduleFreeAdamW"])
def test_fit_save_and_go_on(name: str, policy: str, tmp_path: Path) -> None:
    keras.config.set_dtype_policy(policy)
    x, y = regression_data()
    model = network()
    optimizer: Any = CLASSES[name](learning_rate=0.01)
    if policy == "mixed_float16":
        optimizer = keras.optimizers.LossScaleOptimizer(optimizer, initial_scale=256.0)
    model.compile(optimizer=optimizer, loss="mse")
    losses = model.fit(x, y, epochs=10, batch_size=16, shuffle=False, verbose=0).history["loss"]
    assert losses[-1] < losses[0]
    file = tmp_path / "model.keras"
    model.save(file)
    twin = keras.models.load_model(file)
    ends = [
        m.fit(x, y, epochs=2, batch_size=16, shuffle=False, verbose=0).history["loss"]
        for m in (model, twin)
    ]
    np.testing.assert_allclose(*ends, rtol=1e-5 if policy == "float32" else 5e-2)


def test_compiled_by_torch_is_the_rule() -> None:
    if BACKEND != "torch":
        pytest.skip("the other backends compile all steps")
    for name in ("AdamW", "AdaBelief", "Adan", "Lion"):
        arguments = {"global_clipnorm": 0.5, "weight_decay": 0.01}
        plain = train(getattr(kg, name)(**arguments), 5)
        compiled = train(getattr(kg, name)(jit_compile=True, **arguments), 5)
        assert_close(compiled, plain, 1e-5)
