"""Schedule-Free optimizers, WeightAveraging and Cautious."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import optax
import pytorch_optimizer
import schedulefree
import torch

import keras_gradopt as kg
from tests.keras_gradopt.parity import (
    DECAY,
    NORM,
    PEAK,
    RATE,
    STEPS,
    Pair,
    Trajectory,
    numpy_path,
    rate_at,
    torch_path,
)
from tests.keras_gradopt.problems import gradients, start_weights


def schedule_free_path(make: Callable[[list], Any], *, evaluated: bool = False) -> Trajectory:
    """The path of the authors' package, in training or as it is evaluated; gradients clipped."""
    ws = [torch.nn.Parameter(torch.tensor(w)) for w in start_weights()]
    optimizer = make(ws)
    path = []
    for step in range(STEPS):
        optimizer.train()
        for w, g in zip(ws, gradients([w.detach().numpy() for w in ws], step), strict=True):
            w.grad = torch.tensor(g)
        torch.nn.utils.clip_grad_norm_(ws, NORM)
        optimizer.step()
        if evaluated:
            optimizer.eval()
        path.append([w.detach().numpy().copy() for w in ws])
    return path


def optax_schedule_free_path(transform: Any, *, evaluated: bool = False) -> Trajectory:
    """The path of optax, in training or as it is evaluated; gradients clipped."""
    ws = start_weights()
    state, path = transform.init(ws), []
    for step in range(STEPS):
        gs = gradients(ws, step)
        norm = np.sqrt(sum(float((g.astype(np.float64) ** 2).sum()) for g in gs))
        gs = [(g * min(1.0, NORM / norm)).astype(np.float32) for g in gs]
        updates, state = transform.update(gs, state, ws)
        ws = [np.asarray(w) for w in optax.apply_updates(ws, updates)]
        shown = optax.contrib.schedule_free_eval_params(state, ws) if evaluated else ws
        path.append([np.asarray(w) for w in shown])
    return path


def schedule_free_adamw(w: np.ndarray, g: np.ndarray, state: dict, t: int) -> np.ndarray:
    """The paper's Algorithm 1, with x, y and z as written; warmup over 5 steps."""
    x, z, v = state.get("x", w), state.get("z", w), state.get("v", 0.0)
    v = 0.99 * v + 0.01 * g * g
    rate = PEAK * np.sqrt(1 - 0.99**t) * min(1.0, t / 5)
    z = z - rate * g / (np.sqrt(v) + 1e-8) - rate * DECAY * w
    total = state.get("total", 0.0) + rate**2
    x = (1 - rate**2 / total) * x + rate**2 / total * z
    state |= {"x": x, "z": z, "v": v, "total": total}
    return 0.1 * z + 0.9 * x


def cautious_adam(w: np.ndarray, g: np.ndarray, state: dict, t: int) -> np.ndarray:
    """The paper's Algorithm 1 around Adam with a scheduled rate."""
    m = 0.9 * state.get("m", 0.0) + 0.1 * g
    v = 0.99 * state.get("v", 0.0) + 0.01 * g * g
    state |= {"m": m, "v": v}
    u = (m / (1 - 0.9**t)) / (np.sqrt(v / (1 - 0.99**t)) + 1e-8)
    mask = (u * g > 0).astype(np.float64)
    return w - rate_at(t - 1) * u * mask * mask.size / (mask.sum() + 1)


def averaged_path(average: Any, first: int = 1, frequency: int = 1) -> Trajectory:
    """Torch's averaged model beside clipped SGD with momentum."""
    model = torch.nn.ParameterList([torch.nn.Parameter(torch.tensor(w)) for w in start_weights()])
    averaged = torch.optim.swa_utils.AveragedModel(model, multi_avg_fn=average)
    path = []
    trained = torch_path(lambda ws: torch.optim.SGD(ws, lr=0.02, momentum=0.9), norm=NORM)
    for step, ws in enumerate(trained, start=1):
        for p, w in zip(model, ws, strict=True):
            p.data = torch.tensor(w)
        if step >= first and (step - first) % frequency == 0:
            averaged.update_parameters(model)
        # Before the first that counts, the average is the weights.
        shown = averaged.module if step >= first else model
        path.append([p.detach().numpy().copy() for p in shown])
    return path


def ema(decay: float) -> Any:
    return torch.optim.swa_utils.get_ema_multi_avg_fn(decay)


PAIRS = {
    "ScheduleFreeSGD | schedulefree.SGDScheduleFree, warmup, decay, clipping": Pair(
        lambda: kg.ScheduleFreeSGD(0.1, warmup_steps=5, weight_decay=DECAY, global_clipnorm=NORM),
        lambda: schedule_free_path(
            lambda ws: schedulefree.SGDScheduleFree(
                ws, lr=0.1, warmup_steps=5, weight_decay=DECAY, foreach=False
            )
        ),
    ),
    "ScheduleFreeSGD | schedulefree.SGDScheduleFree, the average, other powers": Pair(
        lambda: kg.ScheduleFreeSGD(
            0.1, beta_1=0.8, weight_power=1.0, rate_power=1.0, global_clipnorm=NORM
        ),
        lambda: schedule_free_path(
            lambda ws: schedulefree.SGDScheduleFree(
                ws, lr=0.1, momentum=0.8, r=1.0, weight_lr_power=1.0, foreach=False
            ),
            evaluated=True,
        ),
        evaluated=True,
    ),
    "ScheduleFreeSGD | optax.contrib.schedule_free_sgd, the average, decay, clipping": Pair(
        lambda: kg.ScheduleFreeSGD(0.1, weight_decay=DECAY, global_clipnorm=NORM),
        lambda: optax_schedule_free_path(
            optax.contrib.schedule_free_sgd(0.1, weight_decay=DECAY), evaluated=True
        ),
        evaluated=True,
    ),
    "ScheduleFreeAdamW | the paper in float64, warmup, decay, clipping": Pair(
        lambda: kg.ScheduleFreeAdamW(
            PEAK, beta_2=0.99, warmup_steps=5, weight_decay=DECAY, global_clipnorm=NORM
        ),
        lambda: numpy_path(schedule_free_adamw, norm=NORM),
    ),
    "ScheduleFreeAdamW | schedulefree.AdamWScheduleFree, moment, warmup, decay, clipping": Pair(
        lambda: kg.ScheduleFreeAdamW(
            0.05, corrects="moment", warmup_steps=5, weight_decay=DECAY, global_clipnorm=NORM
        ),
        lambda: schedule_free_path(
            lambda ws: schedulefree.AdamWScheduleFree(
                ws, lr=0.05, warmup_steps=5, weight_decay=DECAY, foreach=False
            )
        ),
    ),
    "ScheduleFreeAdamW | schedulefree.AdamWScheduleFree, moment, the average": Pair(
        lambda: kg.ScheduleFreeAdamW(0.05, corrects="moment", global_clipnorm=NORM),
        lambda: schedule_free_path(
            lambda ws: schedulefree.AdamWScheduleFree(ws, lr=0.05, foreach=False), evaluated=True
        ),
        evaluated=True,
    ),
    "ScheduleFreeAdamW | optax.contrib.schedule_free_adamw, moment, decay, clipping": Pair(
        lambda: kg.ScheduleFreeAdamW(
            0.05, beta_2=0.9, corrects="moment", weight_decay=DECAY, global_clipnorm=NORM
        ),
        lambda: optax_schedule_free_path(
            optax.contrib.schedule_free_adamw(0.05, b2=0.9, weight_decay=DECAY)
        ),
    ),
    "WeightAveraging | torch AveragedModel, EMA, clipping": Pair(
        lambda: kg.WeightAveraging(
            kg.SGD(0.02, momentum=0.9, global_clipnorm=NORM), decay=0.9, ramp=False
        ),
        lambda: averaged_path(ema(0.9)),
        evaluated=True,
    ),
    "WeightAveraging | torch AveragedModel, SWA from step 5 by 3, clipping": Pair(
        lambda: kg.WeightAveraging(
            kg.SGD(0.02, momentum=0.9, global_clipnorm=NORM),
            average="swa",
            start_step=4,
            frequency=3,
        ),
        lambda: averaged_path(torch.optim.swa_utils.get_swa_multi_avg_fn(), first=5, frequency=3),
        evaluated=True,
    ),
    "Cautious | the paper in float64 around Adam, schedule, clipping": Pair(
        lambda: kg.Cautious(kg.Adam(RATE, beta_2=0.99, global_clipnorm=NORM)),
        lambda: numpy_path(cautious_adam, norm=NORM),
    ),
    "Cautious | pytorch_optimizer.Lion, its cautious option": Pair(
        lambda: kg.Cautious(kg.Lion(0.02)),
        lambda: torch_path(lambda ws: pytorch_optimizer.Lion(ws, lr=0.02, cautious=True)),
    ),
}
