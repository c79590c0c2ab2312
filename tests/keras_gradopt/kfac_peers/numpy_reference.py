"""K-FAC and EKFAC of a network of dense layers, in NumPy and float64, by the papers' equations."""

from __future__ import annotations

from typing import Any

import numpy as np


def passes(ws: list[np.ndarray], x: np.ndarray, labels: np.ndarray) -> tuple[list, list]:
    """Inputs with a 1 behind them and output gradients of each layer: tanh, then softmax."""
    a, inputs, count = x, [], len(ws) // 2
    for i in range(count):
        inputs.append(np.concatenate([a, np.ones((len(a), 1))], axis=1))
        s = a @ ws[2 * i] + ws[2 * i + 1]
        a = np.tanh(s) if i < count - 1 else s
    p = np.exp(a - a.max(axis=1, keepdims=True))
    p /= p.sum(axis=1, keepdims=True)
    d = p - np.eye(p.shape[1])[labels]
    found = [d]
    for i in range(count - 1, 0, -1):
        d = (d @ ws[2 * i].T) * (1 - inputs[i][:, :-1] ** 2)
        found.insert(0, d)
    return inputs, found


def train(
    ws: list[np.ndarray],
    x: np.ndarray,
    labels: np.ndarray,
    steps: int,
    *,
    learning_rate: float,
    momentum: float,
    damping: float,
    norm_constraint: float,
    decay: float,
    inverse_interval: int,
    eigenbasis: bool = False,
) -> list[list[np.ndarray]]:
    """Weights after each step, with the empirical Fisher of the whole batch."""
    ws = [np.asarray(w, "float64") for w in ws]
    count, path = len(ws) // 2, []
    state: list[dict[str, Any]] = [{"a": 0.0, "g": 0.0, "u": 0.0} for _ in range(count)]
    weight = 0.0
    for step in range(steps):
        inputs, gradients = passes(ws, x, labels)
        weight = decay * weight + 1 - decay
        grads, directions = [], []
        for i, (a, d) in enumerate(zip(inputs, gradients, strict=True)):
            own, n = state[i], len(a)
            g = a.T @ d / n
            own["a"] = decay * own["a"] + (1 - decay) * a.T @ a / n
            own["g"] = decay * own["g"] + (1 - decay) * d.T @ d / n
            factors = own["a"] / weight, own["g"] / weight
            due = step % inverse_interval == 0
            rule = _in_eigenbasis if eigenbasis else _inverted
            directions.append(rule(own, factors, a, d, g, due, damping, decay))
            grads.append(g)
        along = sum((d * g).sum() for d, g in zip(directions, grads, strict=True))
        short = min(1.0, np.sqrt(norm_constraint / (learning_rate**2 * along)))
        for i, direction in enumerate(directions):
            state[i]["u"] = momentum * state[i]["u"] - learning_rate * short * direction
            ws[2 * i] = ws[2 * i] + state[i]["u"][:-1]
            ws[2 * i + 1] = ws[2 * i + 1] + state[i]["u"][-1]
        path.append([w.copy() for w in ws])
    return path


def _inverted(
    own: dict, factors: tuple, a: Any, d: Any, g: Any, due: bool, damping: float, decay: float
) -> np.ndarray:
    del a, d, decay
    if due:
        left, right = factors
        pi = np.sqrt((np.trace(left) / len(left)) / (np.trace(right) / len(right)))
        own["left"] = np.linalg.inv(left + pi * np.sqrt(damping) * np.eye(len(left)))
        own["right"] = np.linalg.inv(right + np.sqrt(damping) / pi * np.eye(len(right)))
    return own["left"] @ g @ own["right"]


def _in_eigenbasis(
    own: dict, factors: tuple, a: Any, d: Any, g: Any, due: bool, damping: float, decay: float
) -> np.ndarray:
    if due:
        (left, own["left"]), (right, own["right"]) = (np.linalg.eigh(f) for f in factors)
        own["s"] = np.outer(np.maximum(left, 0), np.maximum(right, 0))
    else:
        each = np.einsum("bi,bj->bij", a @ own["left"], d @ own["right"])
        own["s"] = decay * own["s"] + (1 - decay) * (each**2).mean(axis=0)
    inside = own["left"].T @ g @ own["right"] / (own["s"] + damping)
    return own["left"] @ inside @ own["right"].T
