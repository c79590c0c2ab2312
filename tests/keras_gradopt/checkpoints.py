"""Trains for some epochs from checkpoints, or from the start, and leaves checkpoints.

KERAS_BACKEND=jax python -m tests.keras_gradopt.checkpoints STAGES FOLDER [FOLDER_TO_START_FROM]

After each of STAGES epochs every case leaves FOLDER/<case>.<stage>.keras, and its weights and the
optimizer's state as FOLDER/<case>.<stage>.npz; it starts from the last of the other folder.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np

import keras_gradopt as kg
from tests.keras_gradopt.problems import network, regression_data, values
from tests.keras_gradopt.test_contract import first_of_each_contract


def main(stages: int, folder: Path, start_from: Path | None) -> None:
    """Trains every case."""
    x, y = regression_data()
    for name, made in cases().items():
        if start_from is None:
            model, stage = network(), 0
            model.compile(optimizer=made(), loss="mse")
        else:
            last = max(start_from.glob(f"{name}.*.keras"))
            model, stage = keras.models.load_model(last), int(last.suffixes[0][1:])
        model.jit_compile = keras.backend.backend() == "jax"
        kg.bind(model, dataset=(x, y))
        for number in range(stage + 1, stage + stages + 1):
            model.fit(x, y, batch_size=16, shuffle=False, verbose=0)
            model.save(folder / f"{name}.{number}.keras")
            kept = [*values(model.variables), *values(model.optimizer.variables)]
            np.savez(folder / f"{name}.{number}.npz", *kept)


def cases() -> dict[str, Callable[[], Any]]:
    """One rule per contract, and one in the middle of an accumulation, with averages.

    Without those that draw other numbers on each backend, and those that search by the loss, whose
    rounding sends them along other ways.
    """
    alike = [c for c in first_of_each_contract() if not c.draws and not c.wants_whole_data]
    return {
        **{cls.__name__: cls.example for cls in alike},
        # Its first statistics are as large as the gradients' own: a root of nearly singular ones
        # has no digit that two eigensolvers agree on.
        "Shampoo": lambda: kg.Shampoo(0.02, epsilon=1.0),
        "accumulation": lambda: kg.AdamW(0.02, gradient_accumulation_steps=3, use_ema=True),
    }


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3]) if len(sys.argv) > 3 else None)
