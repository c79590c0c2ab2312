"""MARS."""

from __future__ import annotations

import pytorch_optimizer

import keras_gradopt as kg
from tests.keras_gradopt.parity import Pair, torch_path


def _ours(**arguments: float) -> kg.MARS:
    inner = kg.AdamW(0.02, beta_1=0.95, beta_2=0.99, epsilon=1e-10, weight_decay=0.1)
    return kg.MARS(inner, beta_1=0.95, **arguments)


PAIRS = {
    "MARS | pytorch_optimizer.MARS of AdamW": Pair(
        _ours,
        lambda: torch_path(
            lambda ws: pytorch_optimizer.MARS(
                ws, lr=0.02, weight_decay=0.1, optimize_1d=True, eps=1e-10
            )
        ),
    ),
    "MARS | pytorch_optimizer.MARS of AdamW, ten times as strong": Pair(
        lambda: _ours(gamma=0.25),
        lambda: torch_path(
            lambda ws: pytorch_optimizer.MARS(
                ws, lr=0.02, weight_decay=0.1, optimize_1d=True, eps=1e-10, gamma=0.25
            )
        ),
    ),
}
