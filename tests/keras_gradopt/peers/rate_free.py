"""DAdaptAdam and SWATS, which find a rate from all variables together."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import optax
import pytorch_optimizer
import torch

import keras_gradopt as kg
from tests.keras_gradopt.parity import STEPS, Pair, Trajectory, optax_path, torch_path
from tests.keras_gradopt.problems import gradients, start_weights


class AsOneVector:
    """A torch optimizer that sees all variables as one, where it looks at each alone."""

    def __init__(self, ws: list, make: Callable[[list], Any]) -> None:
        self.ws = ws
        self.whole = torch.nn.Parameter(torch.cat([w.data.reshape(-1) for w in ws]))
        self.optimizer = make([self.whole])

    @property
    def param_groups(self) -> list[dict]:
        return self.optimizer.param_groups

    def step(self) -> None:
        self.whole.grad = torch.cat([w.grad.reshape(-1) for w in self.ws])
        self.optimizer.step()
        parts = self.whole.data.split([w.numel() for w in self.ws])
        for w, part in zip(self.ws, parts, strict=True):
            w.data = part.reshape(w.shape).clone()


def vector_path(rule: Callable[[np.ndarray, np.ndarray, dict, int], np.ndarray]) -> Trajectory:
    """The path of a paper's equations in float64, of all variables as one vector."""
    shapes = [w.shape for w in start_weights()]
    ends = np.cumsum([w.size for w in start_weights()])

    def apart(x: np.ndarray) -> list[np.ndarray]:
        pieces = np.split(x, ends[:-1])
        return [p.reshape(shape) for p, shape in zip(pieces, shapes, strict=True)]

    x = np.concatenate([w.reshape(-1) for w in start_weights()]).astype(np.float64)
    state: dict = {}
    path = []
    for step in range(STEPS):
        gs = gradients([w.astype(np.float32) for w in apart(x)], step)
        x = rule(x, np.concatenate([g.reshape(-1) for g in gs]).astype(np.float64), state, step + 1)
        path.append(apart(x))
    return path


def swats(
    tolerance: float, switch_at: int | None
) -> Callable[[np.ndarray, np.ndarray, dict, int], np.ndarray]:
    """Algorithm 1 of the paper at alpha 0.05.

    Args:
        tolerance: The paper's epsilon where it is held against rates.
        switch_at: The step at which this problem makes it switch, so that both phases are seen;
            None is that it must not.
    """
    alpha, beta_1, beta_2, epsilon = 0.05, 0.9, 0.99, 1e-9

    def rule(w: np.ndarray, g: np.ndarray, state: dict, k: int) -> np.ndarray:
        if not state:
            state.update(phase="Adam", m=np.zeros_like(w), a=np.zeros_like(w), average=0.0)
        if state["phase"] == "SGD":
            state["v"] = beta_1 * state["v"] + g
            return w - (1 - beta_1) * state["rate"] * state["v"]
        state["m"] = beta_1 * state["m"] + (1 - beta_1) * g
        state["a"] = beta_2 * state["a"] + (1 - beta_2) * g**2
        correction = np.sqrt(1 - beta_2**k) / (1 - beta_1**k)
        p = -alpha * correction * state["m"] / (np.sqrt(state["a"]) + epsilon)
        if p @ g != 0:
            gamma = (p @ p) / -(p @ g)
            state["average"] = beta_2 * state["average"] + (1 - beta_2) * gamma
            rate = state["average"] / (1 - beta_2**k)
            if k > 1 and abs(rate - gamma) < tolerance:
                state.update(phase="SGD", v=np.zeros_like(w), rate=rate)
        assert (state["phase"] == "SGD") == (switch_at is not None and k >= switch_at)
        return w + p

    return rule


PAIRS = {
    "DAdaptAdam | optax.contrib.dadapt_adamw, decay": Pair(
        lambda: kg.DAdaptAdam(weight_decay=0.1, initial_distance=1e-2, beta_2=0.99),
        lambda: optax_path(
            optax.contrib.dadapt_adamw(estim_lr0=1e-2, weight_decay=0.1, betas=(0.9, 0.99))
        ),
    ),
    "DAdaptAdam | pytorch_optimizer.DAdaptAdam, no correction": Pair(
        lambda: kg.DAdaptAdam(weight_decay=0.1, beta_2=0.99, bias_correction=False),
        lambda: torch_path(
            lambda ws: pytorch_optimizer.DAdaptAdam(
                ws, betas=(0.9, 0.99), weight_decay=0.1, weight_decouple=True
            )
        ),
    ),
    "DAdaptAdam | pytorch_optimizer.DAdaptAdam, bounded growth": Pair(
        lambda: kg.DAdaptAdam(
            initial_distance=1e-2, growth_rate=1.1, beta_2=0.99, bias_correction=False
        ),
        lambda: torch_path(
            lambda ws: pytorch_optimizer.DAdaptAdam(ws, d0=1e-2, growth_rate=1.1, betas=(0.9, 0.99))
        ),
    ),
    "SWATS | the paper, NumPy float64": Pair(
        lambda: kg.SWATS(0.05, beta_2=0.99, switch_tolerance=2e-4),
        lambda: vector_path(swats(2e-4, switch_at=6)),
    ),
    "SWATS | the paper, NumPy float64, before the switch": Pair(
        lambda: kg.SWATS(0.05, beta_2=0.99),
        lambda: vector_path(swats(1e-9, switch_at=None)),
    ),
    # The peer bounds the difference relative to the rate, by its epsilon: at the same step.
    "SWATS | pytorch_optimizer.SWATS, all variables as one": Pair(
        lambda: kg.SWATS(0.05, beta_2=0.99, epsilon=5e-3, switch_tolerance=2e-4),
        lambda: torch_path(
            lambda ws: AsOneVector(
                ws, lambda x: pytorch_optimizer.SWATS(x, lr=0.05, betas=(0.9, 0.99), eps=5e-3)
            )
        ),
    ),
    # The peer switches by single variables, which this leaves out.
    "SWATS | pytorch_optimizer.SWATS, before the switch": Pair(
        lambda: kg.SWATS(0.05, epsilon=1e-6, switch_tolerance=0.0),
        lambda: torch_path(lambda ws: pytorch_optimizer.SWATS(ws, lr=0.05, eps=1e-6)),
    ),
}
