"""Adadelta, AMSGrad, Adamax, Nadam, NadamW, RAdam, AdaBound, AdaBelief and Yogi."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import optax
import pytorch_optimizer
import torch

import keras_gradopt as kg
from tests.keras_gradopt.parity import (
    DECAY,
    NORM,
    PEAK,
    RATE,
    Pair,
    Trajectory,
    keras_path,
    numpy_path,
    optax_path,
    rate_at,
    torch_path,
)

# RATE without its warmup. AdaBound's bounds depend on what the first rate was.
COOLDOWN = kg.schedules.WarmupStableDecay(PEAK, 0, 5, 10)
# A momentum that rises in the course of training.
RISING = kg.schedules.WarmupStableDecay(0.5, 0, 0, 20, final=0.9)


class Following:
    """A torch optimizer some of whose settings are functions of the step (0 is the first)."""

    def __init__(self, optimizer: torch.optim.Optimizer, **settings: Callable[[int], Any]) -> None:
        self.optimizer = optimizer
        self.settings = settings
        self.count = 0

    @property
    def param_groups(self) -> list:
        return self.optimizer.param_groups

    def step(self) -> None:
        for group in self.param_groups:
            group.update({name: value(self.count) for name, value in self.settings.items()})
        self.optimizer.step()
        self.count += 1


def whole_optax_path(scale: optax.GradientTransformation) -> Trajectory:
    """The path of an optax rule with decoupled decay, RATE and clipping."""
    return optax_path(
        optax.chain(
            optax.clip_by_global_norm(NORM),
            scale,
            optax.add_decayed_weights(DECAY),
            optax.scale_by_learning_rate(lambda count: rate_at(int(count))),
        )
    )


def yogi_from_zero(**settings: Any) -> optax.GradientTransformation:
    """Yogi as optax has it, with a first moment that starts at 0."""
    rule = optax.scale_by_yogi(**settings)

    def init(ws: list) -> Any:
        state = rule.init(ws)
        return state._replace(mu=[0 * m for m in state.mu])

    return optax.GradientTransformation(init, rule.update)


def radam_of_the_paper(w: np.ndarray, g: np.ndarray, state: dict, t: int) -> np.ndarray:
    """Liu and others, Algorithm 2, with its threshold of 4."""
    rate, beta_1, beta_2 = 0.02, 0.9, 0.999
    m = state["m"] = beta_1 * state.get("m", 0.0) + (1 - beta_1) * g
    v = state["v"] = beta_2 * state.get("v", 0.0) + (1 - beta_2) * g**2
    m_hat = m / (1 - beta_1**t)
    limit = 2 / (1 - beta_2) - 1
    rho = limit - 2 * t * beta_2**t / (1 - beta_2**t)
    if rho <= 4:
        return w - rate * m_hat
    r = np.sqrt((rho - 4) * (rho - 2) * limit / ((limit - 4) * (limit - 2) * rho))
    return w - rate * r * m_hat * np.sqrt((1 - beta_2**t) / v)


def yogi_of_the_paper(w: np.ndarray, g: np.ndarray, state: dict, t: int) -> np.ndarray:
    """Zaheer and others, Algorithm 2, with decoupled decay and RATE."""
    rate, beta_1, beta_2 = rate_at(t - 1), 0.9, 0.999
    m = state["m"] = beta_1 * state.get("m", 0.0) + (1 - beta_1) * g
    v = state.get("v", 1e-6)
    v = state["v"] = v - (1 - beta_2) * np.sign(v - g**2) * g**2
    return w - rate * DECAY * w - rate * m / (np.sqrt(v) + 1e-3)


PAIRS = {
    "Adadelta | torch.optim.Adadelta": Pair(
        lambda: kg.Adadelta(1.0, epsilon=1e-4),
        lambda: torch_path(lambda ws: torch.optim.Adadelta(ws, lr=1.0, rho=0.95, eps=1e-4)),
    ),
    "Adadelta | keras Adadelta, decay, schedule, clipping": Pair(
        lambda: kg.Adadelta(RATE, weight_decay=DECAY, global_clipnorm=NORM),
        lambda: keras_path(
            keras.optimizers.Adadelta(RATE, weight_decay=DECAY, global_clipnorm=NORM)
        ),
    ),
    "Adadelta | optax.adadelta, decay, schedule, clipping": Pair(
        lambda: kg.Adadelta(RATE, epsilon=1e-3, weight_decay=DECAY, global_clipnorm=NORM),
        lambda: whole_optax_path(optax.scale_by_adadelta(rho=0.95, eps=1e-3)),
    ),
    "AMSGrad | optax.amsgrad": Pair(
        lambda: kg.AMSGrad(0.02, epsilon=1e-4),
        lambda: optax_path(optax.amsgrad(0.02, eps=1e-4)),
    ),
    "AMSGrad | optax.amsgrad, decay, schedule, clipping": Pair(
        lambda: kg.AMSGrad(RATE, beta_2=0.9, weight_decay=DECAY, global_clipnorm=NORM),
        lambda: whole_optax_path(optax.scale_by_amsgrad(b2=0.9, eps=1e-7)),
    ),
    "Adamax | torch.optim.Adamax, schedule, clipping": Pair(
        lambda: kg.Adamax(RATE, global_clipnorm=NORM),
        lambda: torch_path(lambda ws: torch.optim.Adamax(ws, eps=1e-7), scheduled=True, norm=NORM),
    ),
    "Adamax | keras Adamax, decay, schedule, clipping": Pair(
        lambda: kg.Adamax(RATE, epsilon=1e-2, weight_decay=DECAY, global_clipnorm=NORM),
        lambda: keras_path(
            keras.optimizers.Adamax(RATE, epsilon=1e-2, weight_decay=DECAY, global_clipnorm=NORM)
        ),
    ),
    "Adamax | optax.adamax, decay, schedule, clipping": Pair(
        lambda: kg.Adamax(RATE, weight_decay=DECAY, global_clipnorm=NORM),
        lambda: whole_optax_path(optax.scale_by_adamax(eps=1e-7)),
    ),
    "Nadam | torch.optim.NAdam": Pair(
        lambda: kg.Nadam(0.02, epsilon=1e-4),
        lambda: torch_path(lambda ws: torch.optim.NAdam(ws, lr=0.02, eps=1e-4)),
    ),
    "Nadam | torch.optim.NAdam, beta_1 scheduled": Pair(
        lambda: kg.Nadam(0.02, beta_1=RISING, momentum_decay=0.1),
        lambda: torch_path(
            lambda ws: Following(
                torch.optim.NAdam(ws, lr=0.02, eps=1e-7, momentum_decay=0.1),
                betas=lambda step: (0.5 + 0.4 * step / 20, 0.999),
            )
        ),
    ),
    # Powers of 0.999 in float32 lose the peers up to 8e-6 here.
    "Nadam | keras Nadam, decay, schedule, clipping": Pair(
        lambda: kg.Nadam(
            RATE, beta_2=0.99, momentum_decay=1.0, weight_decay=DECAY, global_clipnorm=NORM
        ),
        lambda: keras_path(
            keras.optimizers.Nadam(RATE, beta_2=0.99, weight_decay=DECAY, global_clipnorm=NORM)
        ),
    ),
    "Nadam | optax.nadam, constant momentum": Pair(
        lambda: kg.Nadam(0.02, beta_2=0.99, epsilon=1e-4, momentum_decay=1000.0),
        lambda: optax_path(optax.nadam(0.02, b2=0.99, eps=1e-4)),
    ),
    "NadamW | torch.optim.NAdam, decay, schedule, clipping": Pair(
        lambda: kg.NadamW(RATE, weight_decay=DECAY, global_clipnorm=NORM),
        lambda: torch_path(
            lambda ws: torch.optim.NAdam(
                ws, eps=1e-7, weight_decay=DECAY, decoupled_weight_decay=True
            ),
            scheduled=True,
            norm=NORM,
        ),
    ),
    "NadamW | optax.nadamw, decay, constant momentum": Pair(
        lambda: kg.NadamW(0.02, weight_decay=DECAY, momentum_decay=1000.0),
        lambda: optax_path(optax.nadamw(0.02, eps=1e-7, weight_decay=DECAY)),
    ),
    "RAdam | torch.optim.RAdam, decay, schedule, clipping": Pair(
        lambda: kg.RAdam(RATE, weight_decay=DECAY, global_clipnorm=NORM),
        lambda: torch_path(
            lambda ws: torch.optim.RAdam(
                ws, eps=1e-8, weight_decay=DECAY, decoupled_weight_decay=True
            ),
            scheduled=True,
            norm=NORM,
        ),
    ),
    "RAdam | optax.radam": Pair(
        lambda: kg.RAdam(0.02, beta_2=0.9, epsilon=1e-4),
        lambda: optax_path(optax.radam(0.02, b2=0.9, eps=1e-4)),
    ),
    "RAdam | NumPy in float64, the paper's threshold": Pair(
        lambda: kg.RAdam(0.02, threshold=4.0),
        lambda: numpy_path(radam_of_the_paper),
    ),
    "AdaBound | pytorch_optimizer.AdaBound": Pair(
        lambda: kg.AdaBound(0.02),
        lambda: torch_path(lambda ws: pytorch_optimizer.AdaBound(ws, lr=0.02)),
    ),
    "AdaBound | pytorch_optimizer.AdaBound, closing bounds": Pair(
        lambda: kg.AdaBound(0.02, final_learning_rate=0.3, gamma=0.5),
        lambda: torch_path(
            lambda ws: pytorch_optimizer.AdaBound(ws, lr=0.02, final_lr=0.3, gamma=0.5)
        ),
    ),
    "AdaBound | pytorch_optimizer.AdaBound, amsbound, decay, schedule, clipping": Pair(
        lambda: kg.AdaBound(
            COOLDOWN,
            beta_2=0.9,
            gamma=0.1,
            amsbound=True,
            weight_decay=DECAY,
            global_clipnorm=NORM,
        ),
        lambda: torch_path(
            lambda ws: Following(
                pytorch_optimizer.AdaBound(
                    ws,
                    lr=PEAK,
                    betas=(0.9, 0.9),
                    gamma=0.1,
                    ams_bound=True,
                    weight_decay=DECAY,
                ),
                lr=lambda step: rate_at(step + 5),
            ),
            norm=NORM,
        ),
    ),
    "AdaBelief | optax.adabelief, large epsilon": Pair(
        lambda: kg.AdaBelief(0.02, beta_2=0.99, epsilon=1e-3),
        lambda: optax_path(optax.adabelief(0.02, b2=0.99, eps=1e-3, eps_root=1e-3)),
    ),
    "AdaBelief | optax.adabelief, decay, schedule, clipping": Pair(
        lambda: kg.AdaBelief(RATE, beta_2=0.99, weight_decay=DECAY, global_clipnorm=NORM),
        lambda: whole_optax_path(optax.scale_by_belief(b2=0.99)),
    ),
    "AdaBelief | pytorch_optimizer.AdaBelief, decay, schedule, clipping": Pair(
        lambda: kg.AdaBelief(RATE, weight_decay=DECAY, global_clipnorm=NORM),
        lambda: torch_path(
            lambda ws: pytorch_optimizer.AdaBelief(ws, weight_decay=DECAY),
            scheduled=True,
            norm=NORM,
        ),
    ),
    "Yogi | optax.yogi, first moment from 0, decay, schedule, clipping": Pair(
        lambda: kg.Yogi(RATE, beta_2=0.9, weight_decay=DECAY, global_clipnorm=NORM),
        lambda: whole_optax_path(yogi_from_zero(b2=0.9)),
    ),
    "Yogi | pytorch_optimizer.Yogi": Pair(
        lambda: kg.Yogi(0.02),
        lambda: torch_path(lambda ws: pytorch_optimizer.Yogi(ws, lr=0.02)),
    ),
    "Yogi | pytorch_optimizer.Yogi, both moments from 0, decay, schedule, clipping": Pair(
        lambda: kg.Yogi(
            RATE, initial_accumulator_value=0.0, weight_decay=DECAY, global_clipnorm=NORM
        ),
        lambda: torch_path(
            lambda ws: pytorch_optimizer.Yogi(ws, initial_accumulator=0.0, weight_decay=DECAY),
            scheduled=True,
            norm=NORM,
        ),
    ),
    "Yogi | NumPy in float64, the paper's rule, decay, schedule, clipping": Pair(
        lambda: kg.Yogi(RATE, bias_correction=False, weight_decay=DECAY, global_clipnorm=NORM),
        lambda: numpy_path(yogi_of_the_paper, norm=NORM),
    ),
}
