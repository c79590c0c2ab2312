"""Gradient descent, Adagrad, RMSprop, Adam and AdamW."""

from __future__ import annotations

import keras
import optax
import torch

import keras_gradopt as kg
from tests.keras_gradopt.parity import (
    DECAY,
    NORM,
    RATE,
    Pair,
    keras_path,
    optax_path,
    torch_path,
)

PAIRS = {
    "SGD | torch.optim.SGD": Pair(
        lambda: kg.SGD(0.02),
        lambda: torch_path(lambda ws: torch.optim.SGD(ws, lr=0.02)),
    ),
    "SGD | torch.optim.SGD, momentum": Pair(
        lambda: kg.SGD(0.02, momentum=0.9),
        lambda: torch_path(lambda ws: torch.optim.SGD(ws, lr=0.02, momentum=0.9)),
    ),
    "SGD | torch.optim.SGD, Nesterov": Pair(
        lambda: kg.SGD(0.02, momentum=0.9, nesterov=True),
        lambda: torch_path(lambda ws: torch.optim.SGD(ws, lr=0.02, momentum=0.9, nesterov=True)),
    ),
    "SGD | optax.sgd, Nesterov": Pair(
        lambda: kg.SGD(0.02, momentum=0.9, nesterov=True),
        lambda: optax_path(optax.sgd(0.02, momentum=0.9, nesterov=True)),
    ),
    # torch and optax keep the rate outside the velocity: equal at a constant rate only.
    "SGD | keras SGD, momentum, schedule, clipping": Pair(
        lambda: kg.SGD(RATE, momentum=0.9, global_clipnorm=NORM),
        lambda: keras_path(keras.optimizers.SGD(RATE, momentum=0.9, global_clipnorm=NORM)),
    ),
    "SGD | keras SGD, averaged weights": Pair(
        lambda: kg.SGD(0.02, use_ema=True, ema_momentum=0.8, ema_overwrite_frequency=3),
        lambda: keras_path(
            keras.optimizers.SGD(0.02, use_ema=True, ema_momentum=0.8, ema_overwrite_frequency=3)
        ),
    ),
    "Adam | torch.optim.Adam": Pair(
        lambda: kg.Adam(0.02, epsilon=1e-4),
        lambda: torch_path(lambda ws: torch.optim.Adam(ws, lr=0.02, eps=1e-4)),
    ),
    "Adam | optax.adam": Pair(
        lambda: kg.Adam(0.02, epsilon=1e-4),
        lambda: optax_path(optax.adam(0.02, eps=1e-4)),
    ),
    "Adam | torch.optim.AdamW, decay, schedule, clipping": Pair(
        lambda: kg.Adam(RATE, weight_decay=DECAY, global_clipnorm=NORM),
        lambda: torch_path(
            lambda ws: torch.optim.AdamW(ws, weight_decay=DECAY, eps=1e-7),
            scheduled=True,
            norm=NORM,
        ),
    ),
    "Adam | optax.amsgrad, amsgrad": Pair(
        lambda: kg.Adam(0.02, amsgrad=True),
        lambda: optax_path(optax.amsgrad(0.02, eps=1e-7)),
    ),
    "AdamW | torch.optim.AdamW, decay, schedule, clipping": Pair(
        lambda: kg.AdamW(RATE, weight_decay=DECAY, global_clipnorm=NORM),
        lambda: torch_path(
            lambda ws: torch.optim.AdamW(ws, weight_decay=DECAY, eps=1e-7),
            scheduled=True,
            norm=NORM,
        ),
    ),
    "AdamW | optax.adamw, decay, clipping": Pair(
        lambda: kg.AdamW(0.02, weight_decay=DECAY, global_clipnorm=NORM),
        lambda: optax_path(
            optax.chain(
                optax.clip_by_global_norm(NORM), optax.adamw(0.02, eps=1e-7, weight_decay=DECAY)
            )
        ),
    ),
    "Adagrad | torch.optim.Adagrad": Pair(
        lambda: kg.Adagrad(0.1, epsilon=1e-4),
        lambda: torch_path(
            lambda ws: torch.optim.Adagrad(ws, lr=0.1, initial_accumulator_value=0.1, eps=1e-4)
        ),
    ),
    "Adagrad | torch.optim.Adagrad, schedule, clipping": Pair(
        lambda: kg.Adagrad(RATE, global_clipnorm=NORM),
        lambda: torch_path(
            lambda ws: torch.optim.Adagrad(ws, initial_accumulator_value=0.1, eps=1e-7),
            scheduled=True,
            norm=NORM,
        ),
    ),
    "RMSprop | torch.optim.RMSprop": Pair(
        lambda: kg.RMSprop(0.01, epsilon=1e-4),
        lambda: torch_path(lambda ws: torch.optim.RMSprop(ws, lr=0.01, alpha=0.9, eps=1e-4)),
    ),
    "RMSprop | torch.optim.RMSprop, centered, momentum": Pair(
        lambda: kg.RMSprop(0.01, momentum=0.5, centered=True),
        lambda: torch_path(
            lambda ws: torch.optim.RMSprop(
                ws, lr=0.01, alpha=0.9, eps=1e-7, momentum=0.5, centered=True
            )
        ),
    ),
    "RMSprop | torch.optim.RMSprop, schedule, clipping": Pair(
        lambda: kg.RMSprop(RATE, global_clipnorm=NORM),
        lambda: torch_path(
            lambda ws: torch.optim.RMSprop(ws, alpha=0.9, eps=1e-7), scheduled=True, norm=NORM
        ),
    ),
}
