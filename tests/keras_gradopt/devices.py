"""Trains on one and on two devices at the same global batch, into a NumPy file.

KERAS_BACKEND=tensorflow python -m tests.keras_gradopt.devices OUT.npz
XLA_FLAGS=--xla_force_host_platform_device_count=2 KERAS_BACKEND=jax python -m ... OUT.npz
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable
from typing import Any

import keras
import numpy as np

import keras_gradopt as kg
from keras_gradopt import registry
from tests.keras_gradopt.problems import network, regression_data


def main(path: str) -> None:
    """Runs everything and writes `path`."""
    two = {"tensorflow": two_replicas, "jax": two_shards}[keras.backend.backend()]()
    found: dict[str, np.ndarray] = {}
    for name, made in cases().items():
        for count, devices in ((1, contextlib.nullcontext), (2, two)):
            with devices():
                model = network()
                model.compile(optimizer=made(), loss="mse")
                x, y = regression_data()
                model.fit(x, y, epochs=2, batch_size=16, shuffle=False, verbose=0)
            for kind, variables in (
                ("weight", model.trainable_variables),
                ("state", model.optimizer.variables),
            ):
                for i, copies in enumerate(copies_of(v) for v in variables):
                    for device, value in enumerate(copies):
                        found[f"{name}/{count}/{kind}/{i}/{device}"] = value
    refused = ""
    with two():
        try:
            needy().build(network().trainable_variables)
        except ValueError as error:
            refused = str(error)
    np.savez(path, refused=refused, **found)


def two_replicas() -> Callable[[], Any]:
    """The scope of tf.distribute over two devices."""
    import tensorflow as tf

    cpu = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
    return tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"]).scope


def two_shards() -> Callable[[], Any]:
    """The scope of keras.distribution over two devices."""
    devices = keras.distribution.list_devices()
    assert len(devices) == 2
    return keras.distribution.DataParallel(devices=devices).scope


def cases() -> dict[str, Callable[[], Any]]:
    """One rule for each kind of state, and what stands around rules."""
    # It makes variables when it is imported, which fixes TensorFlow's devices.
    from tests.keras_gradopt.test_contract import contract, first_of_each_contract

    clipped: dict[str, Any] = {"global_clipnorm": 0.1}
    kinds = {}
    for cls in sorted(first_of_each_contract(), key=lambda cls: cls.__name__):
        if cls.needs != "gradient":
            continue
        family, _, _, _, keeps, _, of_own_shape, shared, _ = contract(cls)
        if keeps:
            kinds[family, of_own_shape, shared] = cls
    return {
        **{cls.__name__: lambda cls=cls: cls.example(**clipped) for cls in kinds.values()},
        "accumulation": lambda: kg.SGD(
            0.1, gradient_accumulation_steps=2, use_ema=True, ema_overwrite_frequency=2, **clipped
        ),
        "around Keras": lambda: kg.Lookahead(
            keras.optimizers.AdamW(0.02, gradient_accumulation_steps=2, use_ema=True, **clipped)
        ),
        "one after the other": lambda: kg.Hybrid(
            kg.SGD(0.1, momentum=0.9, **clipped),
            kg.Lookahead(keras.optimizers.AdamW(0.02), sync_period=2),
            switch=kg.switches.OnGradientNoise(1e-3, patience=1, warmup_steps=2),
        ),
        "by turns": lambda: kg.Interleave(
            kg.SGD(0.1, momentum=0.9, **clipped), kg.Adam(0.02), first_steps=2
        ),
        # Without clipping, which Keras does in each replica before the sum.
        "Keras alone": lambda: keras.optimizers.AdamW(0.02),
    }


def needy() -> Any:
    """A rule that evaluates the loss again."""
    classes = registry.optimizer_classes().values()
    return next(c for c in classes if c.needs != "gradient").example()


def copies_of(variable: Any) -> list[np.ndarray]:
    """The variable's value on each device."""
    native = getattr(variable, "value", variable)
    if keras.backend.backend() == "jax":
        return [np.array(shard.data) for shard in native.addressable_shards]
    return [np.array(part) for part in getattr(native, "values", (native,))]


if __name__ == "__main__":
    main(sys.argv[1])
