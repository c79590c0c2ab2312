"""Makes the weights that ship with the package, and their logs.

`KERAS_BACKEND=jax python -m keras_gradopt.meta_training quadratics mlp`
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras

from keras_gradopt import learned
from keras_gradopt.meta_training import MetaTraining, Quadratics, digits, meta_train

# What each set is trained on, and how.
RECIPES: dict[str, Callable[..., MetaTraining]] = {
    "quadratics": lambda **given: meta_train(Quadratics(problems=64), episodes=600, **given),
    "mlp": lambda **given: meta_train(digits(problems=1), episodes=200, objective="sum", **given),
}


def main(arguments: list[str] | None = None) -> None:
    """Trains the sets that are named."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("sets", nargs="+", choices=RECIPES)
    parser.add_argument("--folder", type=Path, default=Path(learned.__file__).parent)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args(arguments)
    for name in given.sets:
        with (given.folder / f"{name}.log").open("w", encoding="utf-8") as log:

            def tell(line: str, log: Any = log) -> None:
                print(line, file=log, flush=True)
                print(line, flush=True)

            tell(f"{name}: seed {given.seed}, Keras {keras.__version__}, {keras.backend.backend()}")
            path = given.folder / f"{name}.npz"
            RECIPES[name](seed=given.seed, path=path, report=tell)


if __name__ == "__main__":
    main()
