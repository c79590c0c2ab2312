"""Trains in one and in two TensorFlow replicas at the same global batch, into a NumPy file.

KERAS_BACKEND=tensorflow python -m tests.keras_gradopt.replicas OUT.npz
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf

import keras_gradopt as kg
from keras_gradopt import registry
from tests.keras_gradopt.problems import network, regression_data


def main(path: str) -> None:
    """Runs everything and writes `path`."""
    cpu = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
    two = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
    found: dict[str, np.ndarray] = {}
    for name, made in cases().items():
        for count, scope in ((1, contextlib.nullcontext()), (2, two.scope())):
            with scope:
                model = network()
                model.compile(optimizer=made(), loss="mse")
            x, y = regression_data()
            model.fit(x, y, epochs=2, batch_size=16, shuffle=False, verbose=0)
            for kind, variables in (
                ("weight", model.trainable_variables),
                ("state", model.optimizer.variables),
            ):
                for i, copies in enumerate(copies_of(v) for v in variables):
                    for replica, value in enumerate(copies):
                        found[f"{name}/{count}/{kind}/{i}/{replica}"] = value
    refused = ""
    with two.scope():
        try:
            needy().build(network().trainable_variables)
        except ValueError as error:
            refused = str(error)
    np.savez(path, refused=refused, **found)


def cases() -> dict[str, Callable[[], Any]]:
    """One rule for each kind of state, and what stands around rules."""
    # It makes variables when it is imported, which fixes TensorFlow's devices.
    from tests.keras_gradopt.test_contract import contract, first_of_each_contract

    clipped: dict[str, Any] = {"global_clipnorm": 0.1}
    kinds = {}
    for cls in sorted(first_of_each_contract(), key=lambda cls: cls.__name__):
        family, needs, _, _, keeps, _, of_own_shape, shared, _ = contract(cls)
        if needs == "gradient" and keeps:
            kinds[family, of_own_shape, shared] = cls
    return {
        **{cls.__name__: lambda cls=cls: cls.example(**clipped) for cls in kinds.values()},
        "accumulation": lambda: kg.SGD(
            0.1, gradient_accumulation_steps=2, use_ema=True, ema_overwrite_frequency=2, **clipped
        ),
        "around Keras": lambda: kg.Lookahead(
            keras.optimizers.AdamW(0.02, gradient_accumulation_steps=2, use_ema=True, **clipped)
        ),
        # Without clipping, which Keras does in each replica before the sum.
        "Keras alone": lambda: keras.optimizers.AdamW(0.02),
    }


def needy() -> Any:
    """A rule that evaluates the loss again."""
    classes = registry.optimizer_classes().values()
    return next(c for c in classes if c.needs != "gradient").example()


def copies_of(variable: Any) -> list[np.ndarray]:
    """The variable's value in each replica."""
    native = getattr(variable, "value", variable)
    return [np.array(part) for part in getattr(native, "values", (native,))]


if __name__ == "__main__":
    main(sys.argv[1])
