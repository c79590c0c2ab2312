"""Prodigy, Shampoo and Lookahead."""

from __future__ import annotations

import keras
import prodigyopt
import pytorch_optimizer
import torch

import keras_gradopt as kg
from tests.keras_gradopt.parity import Pair, torch_path

PAIRS = {
    "Prodigy | prodigyopt.Prodigy, decay": Pair(
        lambda: kg.Prodigy(weight_decay=0.1, initial_distance=1e-2, bias_correction=True),
        lambda: torch_path(
            lambda ws: prodigyopt.Prodigy(ws, weight_decay=0.1, d0=1e-2, use_bias_correction=True)
        ),
    ),
    "Prodigy | prodigyopt.Prodigy, safeguard": Pair(
        lambda: kg.Prodigy(initial_distance=1e-2, safeguard_warmup=True, distance_coefficient=0.7),
        lambda: torch_path(
            lambda ws: prodigyopt.Prodigy(ws, d0=1e-2, safeguard_warmup=True, d_coef=0.7)
        ),
    ),
    "Lookahead | pytorch_optimizer.Lookahead of SGD": Pair(
        lambda: kg.Lookahead(kg.SGD(0.02, momentum=0.9), sync_period=5, slow_step_size=0.5),
        lambda: torch_path(
            lambda ws: pytorch_optimizer.Lookahead(
                torch.optim.SGD(ws, lr=0.02, momentum=0.9), k=5, alpha=0.5
            )
        ),
    ),
    "Lookahead | pytorch_optimizer.Lookahead of Adam": Pair(
        lambda: kg.Lookahead(
            keras.optimizers.Adam(0.02, epsilon=1e-9), sync_period=5, slow_step_size=0.5
        ),
        lambda: torch_path(
            lambda ws: pytorch_optimizer.Lookahead(
                torch.optim.Adam(ws, lr=0.02, eps=1e-9), k=5, alpha=0.5
            )
        ),
    ),
    "Shampoo | pytorch_optimizer.Shampoo": Pair(
        lambda: kg.Shampoo(0.05, grafting=False, epsilon=1e-2),
        lambda: torch_path(lambda ws: pytorch_optimizer.Shampoo(ws, lr=0.05, matrix_eps=1e-2)),
        tolerance=2e-4,
        why="The peer takes roots through an SVD, ours go through eigenvalues; where statistics "
        "have just been started (one gradient in a space of up to 24 dimensions) both keep half "
        "the digits of float32.",
    ),
}
