"""Writes where evosax' OpenAI-ES goes on given directions, as a NumPy file.

evosax is no test dependency. In an environment of its own:

    pip install evosax==0.3.2 jax==0.10.2
    python tests/keras_gradopt/gradient_free_peers/record_evosax.py
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

OUT = Path(__file__).parent / "recorded" / "evosax_open_es.npz"
GENERATIONS, POPULATION, SIZE = 20, 12, 5
LEARNING_RATE, SIGMA = 0.05, 0.1


def directions() -> np.ndarray:
    """What the population's better half of each generation is made from."""
    return np.random.default_rng(3).normal(size=(GENERATIONS, POPULATION // 2, SIZE))


def loss(points: np.ndarray) -> np.ndarray:
    """Rosenbrock's function of each row."""
    a, b = points[:, :-1], points[:, 1:]
    return np.sum(100 * (b - a**2) ** 2 + (1 - a) ** 2, axis=1)


def start() -> np.ndarray:
    """Where the search begins."""
    return np.linspace(-1.0, 1.0, SIZE)


def main() -> None:
    """Runs it and writes the means of all generations."""
    import jax
    import optax
    from evosax.algorithms import Open_ES

    jax.config.update("jax_enable_x64", True)
    key = jax.random.key(0)
    strategy = Open_ES(
        POPULATION,
        np.zeros(SIZE),
        optimizer=optax.adam(LEARNING_RATE),
        std_schedule=optax.constant_schedule(SIGMA),
    )
    params = strategy.default_params
    state = strategy.init(key, start(), params)
    means = []
    for z in directions():
        ahead = SIGMA * np.concatenate([z, -z])
        points = np.asarray(state.mean) + ahead
        state, _ = strategy.tell(key, points, loss(points), state, params)
        means.append(np.asarray(state.mean))
    np.savez(OUT, means=np.array(means))


if __name__ == "__main__":
    main()
