"""LearnedOptimizer against the paper's network in NumPy."""

from __future__ import annotations

import numpy as np

import keras_gradopt as kg
from keras_gradopt.learned.learned_optimizer import UNITS
from tests.keras_gradopt.parity import STEPS, Pair
from tests.keras_gradopt.problems import gradients, start_weights

SHAPES = kg.LearnedOptimizer.shapes


def arrays(seed: int = 0) -> dict[str, np.ndarray]:
    """A network that nobody trained, whose steps are of order one."""
    rng = np.random.default_rng(seed)
    return {n: (0.5 * rng.normal(size=s)).astype("float32") for n, s in SHAPES.items()}


def paper_features(g: np.ndarray) -> np.ndarray:
    """Appendix A with p = 10, in float64."""
    size = np.abs(g)
    with np.errstate(divide="ignore"):
        large = np.stack([np.log(size) / 10, np.sign(g)], axis=-1)
    small = np.stack([-np.ones_like(g), np.exp(10) * g], axis=-1)
    return np.where((size >= np.exp(-10))[:, None], large, small)


def reference(net: dict[str, np.ndarray], steps: int, rate: float) -> list:
    """The whole rule in float64: two cells for each coordinate, by hand."""
    net = {name: a.astype("float64") for name, a in net.items()}
    ws = [w.astype("float64") for w in start_weights()]
    memory = [[np.zeros((w.size, UNITS)) for _ in range(4)] for w in ws]

    def sigmoid(x: np.ndarray) -> np.ndarray:
        return 1 / (1 + np.exp(-x))

    def cell(x: np.ndarray, h: np.ndarray, c: np.ndarray, layer: int) -> tuple:
        gates = np.concatenate([x, h], axis=1) @ net[f"kernel_{layer}"] + net[f"bias_{layer}"]
        i, f, z, o = np.split(gates, 4, axis=1)
        c = sigmoid(f) * c + sigmoid(i) * np.tanh(z)
        return sigmoid(o) * np.tanh(c), c

    path = []
    for step in range(steps):
        gs = gradients(ws, step)
        for k, g in enumerate(gs):
            features = paper_features(g.ravel().astype("float64"))
            first = cell(features, *memory[k][:2], 1)
            second = cell(first[0], *memory[k][2:], 2)
            memory[k] = [*first, *second]
            u = second[0] @ net["kernel_out"] + net["bias_out"]
            ws[k] = ws[k] + rate * u.reshape(ws[k].shape)
        path.append(list(ws))
    return path


PAIRS = {
    "LearnedOptimizer | NumPy, the paper's two cells and appendix A, weights nobody trained": Pair(
        lambda: kg.LearnedOptimizer(0.02, weights=arrays()),
        lambda: reference(arrays(), STEPS, 0.02),
    )
}
