"""Times one optimizer step of ours beside Keras' own and the backend's usual library.

    KERAS_BACKEND=jax python -m benchmarks.step [--rounds 15]

All sides run in one process, in turn, round after round; what is printed are ratios of medians to
Keras' own optimizer of the same name, with quartiles, since the machine may be shared. Sets of
variables: `large` as in a ResNet-50 cut to a quarter of its width (161 tensors, 1.6 M numbers) and
`many` (400 small tensors, 0.26 M numbers). On JAX and TensorFlow the step is compiled, on torch it
is not, as in `model.fit` by default.
"""

from __future__ import annotations

import argparse
import platform
import time
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from keras import ops
from rich.console import Console
from rich.table import Table

import keras_gradopt as kg

BACKEND = keras.backend.backend()
SETS = {
    "large": [(3, 3, 64, 64)] * 32 + [(64, 128)] * 21 + [(64,)] * 108,
    "many": [(24, 24)] * 200 + [(24,)] * 100 + [(40, 18)] * 100,
}
RULES: dict[str, tuple[Callable[[], Any], Callable[[], Any]]] = {
    "Adam": (kg.Adam, keras.optimizers.Adam),
    "AdamW + clipping": (
        lambda: kg.AdamW(global_clipnorm=1.0),
        lambda: keras.optimizers.AdamW(global_clipnorm=1.0),
    ),
    "SGD + momentum": (
        lambda: kg.SGD(momentum=0.9),
        lambda: keras.optimizers.SGD(momentum=0.9),
    ),
    "RMSprop": (kg.RMSprop, keras.optimizers.RMSprop),
}


def start(optimizer: Any, shapes: list[tuple[int, ...]]) -> Callable[[], None]:
    """Builds an optimizer beside its own variables; returns a function that makes one step."""
    rng = np.random.default_rng(0)
    arrays = [rng.normal(size=shape).astype("float32") for shape in shapes]
    variables = [keras.Variable(a) for a in arrays]
    grads = [ops.convert_to_tensor(0.01 * a) for a in arrays]
    optimizer.build(variables)
    if BACKEND == "jax":
        import jax

        step = jax.jit(optimizer.stateless_apply, donate_argnums=(0, 2))
        state = [[v.value for v in optimizer.variables], [v.value for v in variables]]

        def run() -> None:
            state[1], state[0] = step(state[0], grads, state[1])
            jax.block_until_ready(state)

        return run
    if BACKEND == "tensorflow":
        import tensorflow as tf

        return tf.function(lambda: optimizer.apply(grads, variables), jit_compile=True)

    import torch

    def run_eagerly() -> None:
        with torch.no_grad():
            optimizer.apply(grads, variables)

    return run_eagerly


def measure(sides: list[Callable[[], None]], rounds: int) -> np.ndarray:
    """Seconds of each side in each round, in turn; shape (rounds, sides)."""
    for side in sides:
        side()
        side()
    seconds = np.zeros((rounds, len(sides)))
    for row in seconds:
        for column, side in enumerate(sides):
            began = time.perf_counter()
            side()
            row[column] = time.perf_counter() - began
    return seconds


def main() -> None:
    """Measures and prints one table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=15, help="rounds to take medians over")
    rounds = parser.parse_args().rounds
    table = Table(title=f"One step on {BACKEND}: ours as a multiple of Keras' own")
    for heading in ("rule", "variables", "ratio of medians", "quartiles of the ratio"):
        table.add_column(heading)
    for name, pair in RULES.items():
        for label, shapes in SETS.items():
            seconds = measure([start(make(), shapes) for make in pair], rounds)
            ours, theirs = np.median(seconds, axis=0)
            low, high = np.quantile(seconds[:, 0] / seconds[:, 1], [0.25, 0.75])
            table.add_row(name, label, f"{ours / theirs:.2f}", f"{low:.2f} to {high:.2f}")
    Console().print(table)
    Console().print(f"{platform.processor() or platform.machine()}, Keras {keras.__version__}")


if __name__ == "__main__":
    main()
